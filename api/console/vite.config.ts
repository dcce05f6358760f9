import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

const api = process.env.TAXIMETER_API_URL ?? 'http://127.0.0.1:8084';

export default defineConfig({
  base: '/console/',
  plugins: [react()],
  // The API puts a new nonce in the place of this word each time it sends the page.
  html: { cspNonce: 'CSP_NONCE' },
  build: {
    outDir: '../browser/built',
    emptyOutDir: true,
    manifest: 'manifest.json',
    assetsInlineLimit: 0,
    // Its hint would be an inline script, which our policy forbids.
    modulePreload: { polyfill: false },
  },
  server: {
    host: '127.0.0.1',
    port: 5173,
    strictPort: true,
    proxy: Object.fromEntries(
      ['/api', '/v1', '/docs', '/openapi.json', '/console/session'].map((path) => [path, api]),
    ),
  },
});

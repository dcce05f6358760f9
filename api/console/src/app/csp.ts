/** The nonce of this page: our policy lets only styles with it in. Vite's server writes none. */
export const cspNonce =
  document.querySelector<HTMLMetaElement>('meta[property=csp-nonce]')?.nonce ?? '';

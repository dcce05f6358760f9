// An OpenID provider that nobody here wrote, as little configured as possible: JWT access tokens for one resource, by
// client credentials for the machine and by the authorization code flow for people. Its keys can be rotated while it runs.
// argv: folder of node_modules, port, audience. Prints one line when it listens.
import { createRequire } from 'node:module';
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const [modules, port, audience] = process.argv.slice(2);
const require = createRequire(`${modules}/x.js`);
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));

const issuer = `http://127.0.0.1:${port}`;
const makeKey = (kid) => ({
  ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
  kid, use: 'sig', alg: 'RS256',
});
let claims = {};
let header = {};
let up = true;
let asked = 0;
let keys = [makeKey('first')];
let handler;

function start() {
  const provider = new Provider(issuer, {
    clients: [{
      client_id: 'machine', client_secret: 'for-tests', grant_types: ['client_credentials', 'authorization_code'],
      redirect_uris: ['http://127.0.0.1/back'], response_types: ['code'],
    }],
    jwks: { keys },
    cookies: { keys: ['for-tests'] },
    pkce: { required: () => false },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => audience,
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          scope: 'openid email', audience, accessTokenTTL: 600, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, email: `${id}@example.com` }) }),
    claims: { openid: ['sub'], email: ['email'] },
    formats: {
      customizers: {
        jwt: (ctx, token, jwt) => {
          Object.assign(jwt.payload, claims);
          jwt.header = { ...jwt.header, ...header };
        },
      },
    },
  });
  provider.silent = true;
  handler = provider.callback();
}
start();

// What a test does to the provider, on the side: POST /test with what is to change.
createServer((request, response) => {
  if (request.url === '/test') {
    let body = '';
    request.on('data', (part) => { body += part; });
    request.on('end', () => {
      const change = JSON.parse(body || '{}');
      if ('up' in change) up = change.up;
      if ('claims' in change) claims = change.claims;
      if ('header' in change) header = change.header;
      // The provider signs with the first key and publishes them all.
      if (change.add) keys = [makeKey(change.add), ...keys];
      if (change.drop) keys = keys.filter((key) => key.kid !== change.drop);
      if (change.add || change.drop) start();
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ asked, keys: keys.map((key) => key.kid) }));
    });
    return;
  }
  if (!up) { response.statusCode = 503; response.end(); return; }
  if (request.url === '/jwks') asked += 1;
  handler(request, response);
}).listen(Number(port), '127.0.0.1', () => console.log('listening'));

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
let refuses = false;
let ttl = 600;
let exchanged = 0;
let asked = 0;
let keys = [makeKey('first')];
let handler;

function start() {
  const provider = new Provider(issuer, {
    clients: [{
      client_id: 'machine', client_secret: 'for-tests', grant_types: ['client_credentials', 'authorization_code'],
      redirect_uris: ['http://127.0.0.1/back'], response_types: ['code'],
    }, {
      client_id: 'console', client_secret: 'for%the+console', grant_types: ['authorization_code', 'refresh_token'],
      redirect_uris: ['https://credits.example.com/console/session/back'], response_types: ['code'],
      post_logout_redirect_uris: ['https://credits.example.com/console/signed-out'],
    }],
    jwks: { keys },
    cookies: { keys: ['for-tests'] },
    pkce: { required: (ctx, client) => client.clientId === 'console' },
    issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
    // One that is used twice ends all that was given with it.
    rotateRefreshToken: true,
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => audience,
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          scope: 'openid email', audience, accessTokenTTL: ttl, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
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
      if ('refuses' in change) refuses = change.refuses;
      if ('ttl' in change) ttl = change.ttl;
      if ('claims' in change) claims = change.claims;
      if ('header' in change) header = change.header;
      // The provider signs with the first key and publishes them all.
      if (change.add) keys = [makeKey(change.add), ...keys];
      if (change.drop) keys = keys.filter((key) => key.kid !== change.drop);
      if (change.add || change.drop) start();
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ asked, exchanged, keys: keys.map((key) => key.kid) }));
    });
    return;
  }
  if (!up) { response.statusCode = 503; response.end(); return; }
  if (request.url === '/jwks') asked += 1;
  if (request.url === '/token') exchanged += 1;
  if (request.url === '/token' && refuses) {
    response.writeHead(400, { 'content-type': 'application/json' }).end('{"error": "invalid_grant"}');
    return;
  }
  handler(request, response);
}).listen(Number(port), '127.0.0.1', () => console.log('listening'));

/**
 * Where credentials travel besides the place that the policy names: headers and parameters that
 * servers are known to take an identity from.
 * Invariant: with a pinned credential, a request that carries any of these does not leave.
 */

/** Words that make a header a credential, between separators. */
const headerWords =
  /(?:^|-)(?:auth|authn|authorization|authentication|apikey|api-key|access-key|subscription-key|key$|token|secret|credential|credentials|cookie|cookie2|session|sessionid|password|passwd|signature|bearer|jwt|apitoken|accesstoken|authtoken)(?:$|-)/

/** Headers that choose an account without looking like a key. */
const accountHeaders = new Set([
  'openai-organization',
  'openai-project',
  'chatgpt-account-id',
  'x-goog-user-project',
  'x-slack-user',
  'x-api-user',
  'x-auth-user',
  'x-auth-email',
  'remote-user',
  'x-remote-user',
  'x-forwarded-user',
  'x-forwarded-email',
  'x-webauth-user',
  'x-ms-client-principal',
  'x-ms-client-principal-id',
  'x-amz-date',
  'x-vault-namespace',
  'impersonate-user',
  'x-goog-iam-authorization-token',
])

/** Contain one of the words and carry no identity. */
const harmless = new Set([
  'sec-websocket-key',
  'idempotency-key',
  'x-idempotency-key',
  'cache-key',
  'surrogate-key',
  'x-csrf-token',
  'x-xsrf-token',
  'x-stainless-retry-count',
  'x-github-api-version',
])

/** Any case; servers that take fields by CGI's names see `x_api_key` and `x.api.key` as `x-api-key`. */
export function isCredentialHeader(name: string): boolean {
  const plain = plainHeader(name)
  if (harmless.has(plain)) return false
  return accountHeaders.has(plain) || headerWords.test(plain)
}

/** What two spellings have in common that some server takes for one name. */
export function plainHeader(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9]+/g, '-')
}

const protocolWords =
  /(?:^|[^a-z0-9])(?:api|key|apikey|token|auth|authorization|bearer|secret|password|session|credential|jwt|organization|project|account)(?:$|[^a-z0-9])/i

/**
 * Browsers can't add a header to a WebSocket, and hosts take a key among its protocols instead
 * (`openai-insecure-api-key.KEY`). The first that may be one; names of protocols are short words.
 */
export function credentialProtocol(value: string): string | undefined {
  return value.split(',').find((protocol) => {
    const longest = Math.max(
      ...protocol
        .trim()
        .split('.')
        .map(({ length }) => length),
    )
    const mayBeKey = longest >= 24 || (longest >= 16 && /[0-9]/.test(protocol))
    return mayBeKey || protocolWords.test(protocol)
  })
}

const parameters = new Set([
  'key',
  'apikey',
  'xapikey',
  'hapikey',
  'appid',
  'appkey',
  'userkey',
  'secretkey',
  'privatekey',
  'apisecret',
  'apitoken',
  'accesskey',
  'accesskeyid',
  'awsaccesskeyid',
  'accesstoken',
  'token',
  'auth',
  'authtoken',
  'authorization',
  'authkey',
  'bearer',
  'bearertoken',
  'oauthtoken',
  'oauthsignature',
  'idtoken',
  'sessiontoken',
  'sessionid',
  'session',
  'clientsecret',
  'clientassertion',
  'secret',
  'password',
  'passwd',
  'privatetoken',
  'jobtoken',
  'subscriptionkey',
  'signature',
  'sig',
  'jwt',
  'credential',
  'credentials',
  'xamzcredential',
  'xamzsignature',
  'xamzsecuritytoken',
  'xgoogcredential',
  'xgoogsignature',
])

/** Any spelling: `access_token`, `Access-Token`, `access_token[]`, ` accessToken`. */
export function isCredentialParameter(name: string): boolean {
  return parameters.has(plainParameter(name))
}

export function plainParameter(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9]/g, '')
}

/** Headers that make a server act on another method, path or host than the request line's. */
export const overrideHeaders = new Map<string, 'method' | 'path' | 'host'>([
  ['x-http-method-override', 'method'],
  ['x-http-method', 'method'],
  ['x-method-override', 'method'],
  ['x-original-url', 'path'],
  ['x-rewrite-url', 'path'],
  ['x-original-uri', 'path'],
  ['x-forwarded-host', 'host'],
  ['x-forwarded-server', 'host'],
  ['x-original-host', 'host'],
  ['x-host', 'host'],
  ['forwarded', 'host'],
])

/**
 * Where credentials travel besides the place that the policy names: headers and parameters that
 * servers are known to take an identity from.
 * Invariant: with a pinned credential, a request that carries any of these does not leave.
 */

/** Words that make a header a credential, between separators. */
const headerWords =
  /(?:^|[-_])(?:auth|authn|authorization|authentication|apikey|api[-_]key|access[-_]key|subscription[-_]key|token|secret|credential|credentials|cookie|cookie2|session|sessionid|password|passwd|signature|bearer|jwt|apitoken|accesstoken|authtoken)(?:$|[-_])/

/** Headers that choose an account without looking like a key. */
const accountHeaders = new Set([
  'openai-organization',
  'openai-project',
  'x-goog-user-project',
  'x-slack-user',
  'x-api-user',
  'x-auth-user',
  'x-auth-email',
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
  'x-csrf-token',
  'x-xsrf-token',
  'x-stainless-retry-count',
  'x-github-api-version',
])

/** `name` in lower case. */
export function isCredentialHeader(name: string): boolean {
  if (harmless.has(name)) return false
  return accountHeaders.has(name) || headerWords.test(name)
}

const parameters = new Set([
  'key',
  'apikey',
  'appkey',
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
  return parameters.has(name.toLowerCase().replace(/[^a-z0-9]/g, ''))
}

/** A part of a multipart body whose field name is a credential's. Tested on text read as latin1. */
export const multipartCredential =
  /content-disposition\s*:[^\r\n]*?[;\s]name\*?\s*=\s*(?:[a-z0-9-]*'[a-z-]*')?"?([^"\r\n;]{1,40})/gi

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

/**
 * Certificates of the jail's CA: the structures and their DER come from @peculiar/asn1-x509,
 * keys and signatures from node:crypto. Loaded only where a grant asks for TLS termination.
 * Invariant: private keys stay KeyObjects of this process, but for the CA's own in `kept`; only certificates are ever printed.
 */
import {
  createHash,
  createPrivateKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
  X509Certificate,
} from 'node:crypto'
import { createSecureContext, type SecureContext } from 'node:tls'
import { AsnConvert, OctetString } from '@peculiar/asn1-schema'
import {
  AlgorithmIdentifier,
  AttributeTypeAndValue,
  AttributeValue,
  AuthorityKeyIdentifier,
  BasicConstraints,
  Certificate,
  ExtendedKeyUsage,
  Extension,
  Extensions,
  GeneralName,
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  id_ce_subjectKeyIdentifier,
  id_kp_serverAuth,
  KeyIdentifier,
  KeyUsage,
  KeyUsageFlags,
  Name,
  RelativeDistinguishedName,
  SubjectAlternativeName,
  SubjectKeyIdentifier,
  SubjectPublicKeyInfo,
  TBSCertificate,
  Validity,
  Version,
} from '@peculiar/asn1-x509'
import type { Authority } from './authority.js'

/** ecdsa-with-SHA256, RFC 5758 §3.2. */
const ecdsaWithSha256 = '1.2.840.10045.4.3.2'
/** id-at-commonName, RFC 5280 appendix A. */
const commonName = '2.5.4.3'
const day = 86_400_000
/** Clocks differ: certificates are valid from a day before they were made. */
const backdate = day
/** A jail may run for months; the key is gone with it anyway. */
const rootLife = 730 * day
/** Apple's limit for leaves of locally added roots is 825 days; 90 fits every client. */
const leafLife = 90 * day
/** A wildcard grant lets the jail choose names: contexts kept at once. */
const maxLeaves = 512

interface Signer {
  readonly name: Name
  readonly key: KeyObject
  readonly keyId: Buffer
}

interface Leaf {
  readonly context: SecureContext
  readonly renewAt: number
}

/** `jail` only names the CA, for people who look at it. `kept`: see `Authority.kept`. Throws on what is not one. */
export function makeAuthority(jail: string, kept?: string): Authority {
  const { signer, pem } = kept === undefined ? freshRoot(jail) : rootOf(kept)
  // One key for all leaves: they are all held by this process alone.
  const leafPair = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const leafKey = leafPair.privateKey.export({ type: 'pkcs8', format: 'pem' })
  const leaves = new Map<string, Leaf>()

  return {
    pem,
    kept: `${signer.key.export({ type: 'pkcs8', format: 'pem' }).toString()}${pem}`,
    contextFor(name: string): SecureContext {
      const known = leaves.get(name)
      if (known !== undefined && known.renewAt > Date.now()) return known.context
      const subject = nameOf(name.length <= 64 ? name : 'agentjail') // ub-common-name, RFC 5280
      const cert = issue(
        signer,
        subject,
        leafPair.publicKey,
        leafLife,
        leafExtensions(signer, name, leafPair.publicKey),
      )
      const context = createSecureContext({ key: leafKey, cert, minVersion: 'TLSv1.2' })
      leaves.delete(name)
      const oldest = leaves.size >= maxLeaves ? leaves.keys().next().value : undefined
      if (oldest !== undefined) leaves.delete(oldest)
      leaves.set(name, { context, renewAt: Date.now() + leafLife / 2 })
      return context
    },
  }
}

interface Root {
  readonly signer: Signer
  readonly pem: string
}

function freshRoot(jail: string): Root {
  const { privateKey: key, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const name = nameOf(`agentjail ${jail} ${randomBytes(4).toString('hex')}`)
  const signer = { name, key, keyId: keyIdOf(publicKey) }
  return { signer, pem: issue(signer, name, publicKey, rootLife, rootExtensions(signer)) }
}

function rootOf(kept: string): Root {
  const at = kept.indexOf('-----BEGIN CERTIFICATE-----')
  const pem = kept.slice(at)
  const { raw, publicKey } = new X509Certificate(pem)
  const { subject } = AsnConvert.parse(arrayBuffer(raw), Certificate).tbsCertificate
  const key = createPrivateKey(kept.slice(0, at))
  return { signer: { name: subject, key, keyId: keyIdOf(publicKey) }, pem }
}

function issue(
  signer: Signer,
  subject: Name,
  publicKey: KeyObject,
  life: number,
  extensions: Extension[],
): string {
  const algorithm = new AlgorithmIdentifier({ algorithm: ecdsaWithSha256 })
  const now = Date.now()
  const serial = randomBytes(16)
  // Positive and without a leading zero octet, RFC 5280 §4.1.2.2.
  serial[0] = ((serial[0] ?? 0) % 0x3f) | 0x40
  const tbs = new TBSCertificate({
    version: Version.v3,
    serialNumber: arrayBuffer(serial),
    signature: algorithm,
    issuer: signer.name,
    validity: new Validity({
      notBefore: new Date(now - backdate),
      notAfter: new Date(now + life),
    }),
    subject,
    subjectPublicKeyInfo: AsnConvert.parse(
      publicKey.export({ type: 'spki', format: 'der' }),
      SubjectPublicKeyInfo,
    ),
    extensions: new Extensions(extensions),
  })
  const signature = sign('sha256', Buffer.from(AsnConvert.serialize(tbs)), signer.key)
  const certificate = new Certificate({
    tbsCertificate: tbs,
    signatureAlgorithm: algorithm,
    signatureValue: arrayBuffer(signature),
  })
  const base64 = Buffer.from(AsnConvert.serialize(certificate)).toString('base64')
  const lines = base64.match(/.{1,64}/g) ?? []
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`
}

function rootExtensions(signer: Signer): Extension[] {
  return [
    extension(
      id_ce_basicConstraints,
      true,
      new BasicConstraints({ cA: true, pathLenConstraint: 0 }),
    ),
    extension(
      id_ce_keyUsage,
      true,
      new KeyUsage(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign),
    ),
    extension(
      id_ce_subjectKeyIdentifier,
      false,
      new SubjectKeyIdentifier(arrayBuffer(signer.keyId)),
    ),
  ]
}

/** Python 3.13 verifies strictly: key identifiers, critical basic constraints and key usage must be there. */
function leafExtensions(signer: Signer, name: string, publicKey: KeyObject): Extension[] {
  return [
    extension(id_ce_basicConstraints, true, new BasicConstraints({ cA: false })),
    extension(id_ce_keyUsage, true, new KeyUsage(KeyUsageFlags.digitalSignature)),
    extension(id_ce_extKeyUsage, false, new ExtendedKeyUsage([id_kp_serverAuth])),
    extension(
      id_ce_subjectAltName,
      false,
      new SubjectAlternativeName([new GeneralName({ dNSName: name })]),
    ),
    extension(
      id_ce_subjectKeyIdentifier,
      false,
      new SubjectKeyIdentifier(arrayBuffer(keyIdOf(publicKey))),
    ),
    extension(
      id_ce_authorityKeyIdentifier,
      false,
      new AuthorityKeyIdentifier({ keyIdentifier: new KeyIdentifier(arrayBuffer(signer.keyId)) }),
    ),
  ]
}

function extension(extnID: string, critical: boolean, value: object): Extension {
  return new Extension({
    extnID,
    critical,
    extnValue: new OctetString(AsnConvert.serialize(value)),
  })
}

function nameOf(text: string): Name {
  return new Name([
    new RelativeDistinguishedName([
      new AttributeTypeAndValue({
        type: commonName,
        value: new AttributeValue({ utf8String: text }),
      }),
    ]),
  ])
}

/** RFC 5280 §4.2.1.2 lets any unique derivation stand; RFC 7093 method 1: leftmost 160 bits of SHA-256. */
function keyIdOf(publicKey: KeyObject): Buffer {
  const spki = publicKey.export({ type: 'spki', format: 'der' })
  return createHash('sha256').update(spki).digest().subarray(0, 20)
}

function arrayBuffer(bytes: Buffer): ArrayBuffer {
  return new Uint8Array(bytes).buffer
}

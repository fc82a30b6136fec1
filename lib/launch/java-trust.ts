/**
 * The roots as a Java program reads them: a key store in Sun's JKS format, which every Java takes for `cacerts`
 * (JDK, sun.security.provider.JavaKeyStore: `engineStore`). Pure.
 */
import { createHash } from 'node:crypto'

const magic = 0xfeedfeed
const version = 2
const trustedCertificate = 2
/** The one that everybody uses for `cacerts`: it keeps nothing secret, and keytool asks for it. */
const password = 'changeit'

/** @param pem certificates one after another; other text between them is passed over */
export function javaTrust(pem: string, created = new Date()): Buffer {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []
  const head = Buffer.alloc(12)
  head.writeUInt32BE(magic, 0)
  head.writeUInt32BE(version, 4)
  head.writeUInt32BE(blocks.length, 8)
  const body = Buffer.concat([head, ...blocks.map((block, at) => entry(block, `ca${at}`, created))])
  const secret = Buffer.from(password, 'utf16le').swap16()
  const digest = createHash('sha1').update(secret).update('Mighty Aphrodite').update(body).digest()
  return Buffer.concat([body, digest])
}

function entry(block: string, alias: string, created: Date): Buffer {
  const der = Buffer.from(block.replace(/-----[A-Z ]+-----/g, ''), 'base64')
  const tag = Buffer.alloc(4)
  tag.writeUInt32BE(trustedCertificate)
  const date = Buffer.alloc(8)
  date.writeBigUInt64BE(BigInt(created.getTime()))
  const length = Buffer.alloc(4)
  length.writeUInt32BE(der.length)
  return Buffer.concat([tag, text(alias), date, text('X.509'), length, der])
}

/** As `DataOutput.writeUTF` does with ASCII. */
function text(value: string): Buffer {
  const length = Buffer.alloc(2)
  length.writeUInt16BE(value.length)
  return Buffer.concat([length, Buffer.from(value, 'latin1')])
}

/** The key store for Java, byte for byte as keytool (JDK 17) wrote it of the same certificate at the same time. */
import t from 'tap'
import { javaTrust } from '../lib/launch/java-trust.js'

/** `keytool -importcert -noprompt -storetype JKS -alias ca0 -file c.pem -keystore t.jks -storepass changeit` */
const keytools = Buffer.from(
  [
    '/u3+7QAAAAIAAAABAAAAAgADY2EwAAABohtSIPYABVguNTA5AAABjjCCAYowggExoAMCAQICFBaE',
    'rUSl0KEujxWaBpdBgQM8oqQ+MAoGCCqGSM49BAMCMBsxGTAXBgNVBAMMEEEgcm9vdCBvZiBhIHRl',
    'c3QwHhcNMjYxMTI3MDQ0NDU2WhcNMzYxMTI0MDQ0NDU2WjAbMRkwFwYDVQQDDBBBIHJvb3Qgb2Yg',
    'YSB0ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEkusNlagBIeecdikatYMODNpmGR2aru63',
    'NcjTWxPL8SnDmswgDZxBGQVDa+EsiPpVv2O8EseQI65FbhjNscCWgKNTMFEwHQYDVR0OBBYEFOb5',
    'imzLnCd7qwg+7efbeK36EfksMB8GA1UdIwQYMBaAFOb5imzLnCd7qwg+7efbeK36EfksMA8GA1Ud',
    'EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIgcmdjltLRuiF0cHD3mOUrBp4M07HPQaCnHdJ+',
    'j3c1vhwCIEduj5ZEGqO2utocS03Q5etteI8gSHEcHb7593SCKsE6FgQaGrH1wka9urzVM/2Uz409',
    'Rqs=',
  ].join(''),
  'base64',
)
const certificate = [
  '-----BEGIN CERTIFICATE-----',
  'MIIBijCCATGgAwIBAgIUFoStRKXQoS6PFZoGl0GBAzyipD4wCgYIKoZIzj0EAwIw',
  'GzEZMBcGA1UEAwwQQSByb290IG9mIGEgdGVzdDAeFw0yNjExMjcwNDQ0NTZaFw0z',
  'NjExMjQwNDQ0NTZaMBsxGTAXBgNVBAMMEEEgcm9vdCBvZiBhIHRlc3QwWTATBgcq',
  'hkjOPQIBBggqhkjOPQMBBwNCAASS6w2VqAEh55x2KRq1gw4M2mYZHZqu7rc1yNNb',
  'E8vxKcOazCANnEEZBUNr4SyI+lW/Y7wSx5AjrkVuGM2xwJaAo1MwUTAdBgNVHQ4E',
  'FgQU5vmKbMucJ3urCD7t59t4rfoR+SwwHwYDVR0jBBgwFoAU5vmKbMucJ3urCD7t',
  '59t4rfoR+SwwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiByZ2OW',
  '0tG6IXRwcPeY5SsGngzTsc9BoKcd0n6PdzW+HAIgR26PlkQao7a62hxLTdDl6214',
  'jyBIcRwdvvn3dIIqwTo=',
  '-----END CERTIFICATE-----',
].join('\n')

t.test('as keytool writes it', (t) => {
  const created = new Date(1795754696950)
  t.ok(javaTrust(`# a bundle\n${certificate}\n`, created).equals(keytools))
  const two = javaTrust(`${certificate}\n${certificate}\n`, created)
  t.equal(two.readUInt32BE(8), 2, 'each certificate is an entry')
  t.equal(javaTrust('', created).readUInt32BE(8), 0)
  t.end()
})

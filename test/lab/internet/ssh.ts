/**
 * The SSH server of github.com:
 * accepts any user, runs no command, answers `lab ran: COMMAND`.
 */
import { generateKeyPairSync } from 'node:crypto'
import ssh2, { type Connection } from 'ssh2'
import { services } from '../addresses.js'

const serve = (client: Connection): void => {
  client.on('error', () => undefined)
  client.on('authentication', (context) => {
    context.accept()
  })
  client.on('session', (acceptSession) => {
    const session = acceptSession()
    session.on('exec', (accept, _reject, { command }) => {
      const stream = accept()
      stream.write(`lab ran: ${command}\n`)
      stream.exit(0)
      stream.end()
    })
  })
}

export const startSsh = (): Promise<unknown> => {
  const { privateKey: hostKey } = generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    privateKeyEncoding: { type: 'sec1', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  })
  return Promise.all(
    [services.github.v4, services.github.v6].map(
      (host) =>
        new Promise<void>((resolve) => {
          new ssh2.Server({ hostKeys: [hostKey] }, serve).listen(22, host, resolve)
        }),
    ),
  )
}

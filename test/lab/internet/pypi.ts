/**
 * A package index: one wheel, made when it is first asked for.
 * Sources: https://packaging.python.org/en/latest/specifications/simple-repository-api/ and .../binary-distribution-format/
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { json, type Handler } from './http.js'

const file = 'labwheel-1.0-py3-none-any.whl'
const makeWheel = `
import sys, zipfile, io
out = io.BytesIO()
with zipfile.ZipFile(out, 'w') as z:
    z.writestr('labwheel.py', 'word = "from the lab"\\n')
    z.writestr('labwheel-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: labwheel\\nVersion: 1.0\\n')
    z.writestr('labwheel-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: lab\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    z.writestr('labwheel-1.0.dist-info/RECORD', 'labwheel.py,,\\n')
sys.stdout.buffer.write(out.getvalue())
`
let wheel: Buffer | undefined

export const pypi: Handler = (exchange) => {
  const { request, response, url } = exchange
  wheel ??= execFileSync('/usr/bin/python3', ['-c', makeWheel])
  if (request.headers.host === 'files.pythonhosted.org' && url.pathname === `/packages/${file}`) {
    response.writeHead(200, { 'content-type': 'application/octet-stream' })
    return void response.end(wheel)
  }
  if (request.headers.host !== 'pypi.org' || url.pathname !== '/simple/labwheel/') {
    return json(exchange, { message: 'Not Found' }, 404)
  }
  const hash = createHash('sha256').update(wheel).digest('hex')
  response.writeHead(200, { 'content-type': 'text/html' })
  response.end(
    `<!DOCTYPE html><a href="https://files.pythonhosted.org/packages/${file}#sha256=${hash}">${file}</a>`,
  )
}

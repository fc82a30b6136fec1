/** After the build: the manual page, made of the same table as `--help`. */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { manPage } from '../dist/lib/cli/man-page.js'

const { version } = JSON.parse(await readFile('package.json', 'utf8'))
await mkdir('dist/man', { recursive: true })
await writeFile('dist/man/agentjail.1', manPage(version))

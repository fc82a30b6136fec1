/** After the build: the manual pages, made of the same table as `--help`, and of the page about policies. */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { manPage } from '../dist/lib/cli/man-page.js'
import { policyPage } from '../dist/lib/cli/policy-page.js'

const { version } = JSON.parse(await readFile('package.json', 'utf8'))
await mkdir('dist/man', { recursive: true })
await writeFile('dist/man/agentjail.1', manPage(version))
const policies = await readFile('docs/policies.md', 'utf8')
await writeFile('dist/man/agentjail-policy.5', policyPage(policies, version))

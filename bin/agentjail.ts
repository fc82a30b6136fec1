#!/usr/bin/env node
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

// The bundle starts faster; without it (a plain `tsc`) the modules do the same.
const bundle = fileURLToPath(new URL('../lib/bundle/agentjail.cjs', import.meta.url))
if (existsSync(bundle)) createRequire(import.meta.url)(bundle)
else await import('../lib/cli/start.js')

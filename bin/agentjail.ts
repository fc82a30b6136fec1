#!/usr/bin/env node
import { existsSync } from 'node:fs'

// The bundle starts faster; without it (a plain `tsc`) the modules do the same.
const bundle = new URL('../lib/bundle/agentjail.js', import.meta.url)
await import(existsSync(bundle) ? bundle.href : '../lib/cli/start.js')

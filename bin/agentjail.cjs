#!/usr/bin/env node
'use strict'
// CommonJS: Node starts it some milliseconds sooner than a module.
require('../lib/bundle/agentjail.cjs')

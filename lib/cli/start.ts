/**
 * What the bin runs: the bundle's entry. No top-level await: the bundle is CommonJS, which can have a code cache.
 */
import { main } from './main.js'

void main(process.argv.slice(2))

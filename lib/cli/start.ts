/**
 * What the bin runs: the bundle's entry.
 */
import { main } from './main.js'

await main(process.argv.slice(2))

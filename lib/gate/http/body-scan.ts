/**
 * What looks through a body as it streams, by its format.
 */
import type { BodyScan } from './message.js'
import { MethodScan } from './method-scan.js'
import { MultipartScan } from './multipart.js'

/** Asked before each chunk goes on; undefined: there is nothing to look for. */
export function openScan(scan: BodyScan | undefined): MethodScan | MultipartScan | undefined {
  if (scan === undefined) return undefined
  return scan.format === 'multipart' ? new MultipartScan(scan) : new MethodScan(scan.format)
}

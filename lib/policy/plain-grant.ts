/** A grant that says nothing but where. Pure. */
import type { Grant } from './types.js'

/** TCP, by its TLS name, all requests, public addresses, no limits; spread over it what is otherwise. */
export function plainGrant(where: Pick<Grant, 'id' | 'host' | 'ports' | 'origin'>): Grant {
  return {
    ...where,
    proto: 'tcp',
    inspect: 'sni',
    access: 'full',
    rules: [],
    within: [],
    private: false,
    limits: {},
  }
}

/**
 * Recognises secrets written out in a policy.
 * Invariant: text that looks like a secret is refused and never repeated in a message.
 */

/** Token shapes of common services, from their own documents and public scanners' rule sets. */
const shapes: readonly RegExp[] = [
  /\bsk-[A-Za-z0-9_-]{16,}/, // OpenAI, Anthropic (sk-ant-…), OpenRouter
  /\bgh[pousr]_[A-Za-z0-9]{20,}/, // GitHub
  /\bgithub_pat_[A-Za-z0-9_]{20,}/,
  /\bxox[abeoprs]-[A-Za-z0-9-]{10,}/, // Slack
  /\bxapp-[A-Za-z0-9-]{10,}/, // Slack app-level
  /\b\d{8,10}:[A-Za-z0-9_-]{35}\b/, // Telegram bot
  /\bAKIA[0-9A-Z]{16}\b/, // AWS
  /\bAIza[0-9A-Za-z_-]{35}/, // Google
  /\bhf_[A-Za-z0-9]{30,}/, // Hugging Face
  /\bnpm_[A-Za-z0-9]{30,}/,
  /\bglpat-[A-Za-z0-9_-]{20,}/, // GitLab
  /\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}/, // Stripe
  /-----BEGIN [A-Z ]*PRIVATE KEY-----/,
]

const anyShape = new RegExp(shapes.map(({ source }) => source).join('|'))

export function looksSecret(text: string): boolean {
  return anyShape.test(text)
}

/** A variable whose value is a secret by its name. */
export function isSecretName(name: string): boolean {
  return /(?:^|_)(?:API_?KEY|ACCESS_KEY|PRIVATE_KEY|SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE)(?:$|_)/i.test(
    name,
  )
}

/**
 * What no workspace opens: files that other programs run or trust, and files that hold keys.
 * Invariant: the decision is by name alone and pure; who walks and who mounts is elsewhere.
 */

/** `read-only`: visible, not writable. `hidden`: neither readable nor writable. */
export type GuardKind = 'read-only' | 'hidden'

/** Some file systems know no case: there `.Env` is `.env` to every program. */
function lowerCase(names: readonly string[]): ReadonlySet<string> {
  return new Set(names.map((name) => name.toLowerCase()))
}

/** Start-up files, editor and tool settings: programs run what stands in them. */
const readOnlyNames = lowerCase([
  ...['.bashrc', '.bash_profile', '.bash_login', '.bash_logout', '.bash_aliases', '.profile'],
  ...['.zshrc', '.zshenv', '.zprofile', '.zlogin', '.zlogout', '.kshrc', '.cshrc', '.tcshrc'],
  ...['.login', '.logout', '.inputrc', '.xprofile', '.xinitrc', '.xsession', '.xsessionrc'],
  ...['.vimrc', '.gvimrc', '.exrc', '.nvimrc', '.vim', '.emacs', '.emacs.d', '.nanorc'],
  ...['.dir-locals.el', '.gdbinit', '.lldbinit', '.envrc', '.direnv', '.tmux.conf', '.screenrc'],
  ...['.vscode', '.idea', '.fleet', '.zed', '.devcontainer', '.mcp.json', '.ripgreprc'],
  ...['.gitconfig', '.gitmodules', '.hgrc', '.hg', '.svn', '.bzr', '.jj', '.pijul'],
  ...['.npmrc', '.yarnrc', '.yarnrc.yml', '.pypirc', '.curlrc', '.wgetrc', '.psqlrc', '.pdbrc'],
  ...['.claude/settings.json', '.claude/settings.local.json', '.claude/hooks', '.claude/commands'],
  ...['.claude/agents', '.claude/skills', '.claude/plugins', '.cursor', '.gemini', '.codex'],
  ...['.opencode', 'opencode.json', '.nvim.lua', '.helix'],
  ...['.pythonrc', '.irbrc', '.Rprofile', '.husky', 'agentjail.yaml', '.agentjail'],
])

/** Keys and credentials. */
const hiddenNames = lowerCase([
  ...['.ssh', '.aws', '.gnupg', '.kube', '.docker', '.azure', '.netrc', '.pgpass', '.my.cnf'],
  ...['.git-credentials', '.vault-token', '.boto', '.s3cfg', '.terraformrc', '.password-store'],
  ...['.config/gcloud', '.config/gh', '.config/rclone', '.config/op', '.cargo/credentials'],
  ...['.cargo/credentials.toml', '.terraform.d/credentials.tfrc.json', '.gem/credentials'],
  ...['.mozilla', '.config/google-chrome', '.config/chromium', '.local/share/keyrings'],
])

/** Instructions that coding agents follow: the command may write them, and the caller is told that it did. */
const instructionNames = lowerCase([
  ...['CLAUDE.md', 'CLAUDE.local.md', 'AGENTS.md', 'GEMINI.md', 'copilot-instructions.md'],
  ...['.cursorrules', '.windsurfrules', '.clinerules'],
])

/** @param relative the path from the workspace's root, with `/` */
export function isInstruction(relative: string): boolean {
  return instructionNames.has(relative.slice(relative.lastIndexOf('/') + 1).toLowerCase())
}

/** Not walked into: large, and what they hold is run from inside the workspace anyway. */
export const unwalkedNames: ReadonlySet<string> = new Set([
  ...['node_modules', '.venv', 'venv', '__pycache__', 'target', '.cache', '.tox', '.git'],
])

/** `.env`, `.env.local`, ...; not the samples that repositories carry. */
function isEnvFile(name: string): boolean {
  return /^\.env(\.|$)/.test(name) && !/\.(example|sample|template|dist|defaults?)$/.test(name)
}

/** @param relative the path from the workspace's root, with `/` */
export function guardOf(relative: string): GuardKind | undefined {
  const parts = relative.toLowerCase().split('/')
  const name = parts.at(-1) ?? ''
  const pair = parts.slice(-2).join('/')
  if (isEnvFile(name) || hiddenNames.has(name) || hiddenNames.has(pair)) return 'hidden'
  return readOnlyNames.has(name) || readOnlyNames.has(pair) ? 'read-only' : undefined
}

/** @param relative the path from the workspace's root, with `/` */
export function mayBePolicy(relative: string): boolean {
  return /\.(?:ya?ml|json)$/i.test(relative) && /polic|jail/i.test(relative)
}

/** Whether the beginning of a file reads like a policy of agentjail's: they say their version first of all. */
export function isPolicyText(text: string | undefined): boolean {
  return text !== undefined && /^[\s{]*(?:#.*\s+)*"?version"?\s*:\s*1\b/.test(text)
}

/** Inside a Git directory: settings and hooks name programs; `commondir` leads to other settings. */
export const gitReadOnly = ['config', 'config.worktree', 'commondir', 'hooks'] as const

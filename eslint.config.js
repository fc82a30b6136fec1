// @ts-check
import { defineConfig } from 'eslint/config'
import tseslint from 'typescript-eslint'

/** Folders that plan and never act: no file system, no network, no processes. */
const pure = [
  'lib/plan/**/*.ts',
  'lib/policy/**/*.ts',
  'lib/backend/nftables/{ast,print,readback,removal,denials,refusals,tables,*-table,*-tables,uid-base,uid-jail}.ts',
  'lib/backend/iptables/{ast,base,denials,jail,pins,readback,tables}.ts',
  'lib/backend/pf/{rules,print,compile}*.ts',
  'lib/audit/{record,explain,remedy,fold,names,palette,sanitise,summary}.ts',
  'lib/status/{human,log-line,status}.ts',
  'lib/launch/{seccomp,launch-plan,mount-plan,places,guard-names,status-lines}.ts',
  'lib/system/syscall-numbers.ts',
  'lib/gate/sni/**/*.ts',
]

const noEffects = {
  group: [
    'node:fs',
    'node:fs/*',
    'node:net',
    'node:http',
    'node:https',
    'node:http2',
    'node:tls',
    'node:dgram',
    'node:child_process',
    'execa',
    '**/system/real.js',
  ],
  message:
    'This folder is pure: effects belong to lib/session, lib/system, and the thin parts of the backends.',
}

/** `bin -> cli -> session -> {backend, account, launch, gate} -> plan -> policy`, and never back. */
const arrows = {
  audit: [
    '**/session/**',
    '**/cli/**',
    '**/account/**',
    '**/backend/**',
    '**/launch/**',
    '**/gate/**',
    '**/setup/**',
    '**/status/**',
    '**/doctor/**',
  ],
  status: [
    '**/session/**',
    '**/cli/**',
    '**/account/**',
    '**/backend/**',
    '**/launch/**',
    '**/gate/**',
    '**/setup/**',
    '**/doctor/**',
  ],
  setup: [
    '**/session/**',
    '**/cli/**',
    '**/launch/**',
    '**/gate/**',
    '**/status/**',
    '**/doctor/**',
  ],
  doctor: ['**/cli/**', '**/launch/**', '**/gate/**'],
  policy: [
    '**/plan/**',
    '**/backend/**',
    '**/account/**',
    '**/launch/**',
    '**/session/**',
    '**/cli/**',
    '**/gate/**',
  ],
  plan: [
    '**/session/**',
    '**/cli/**',
    '**/account/**',
    '**/launch/!(types.js)',
    '**/backend/!(types.js)',
    '**/gate/!(protocol.js)',
  ],
  backend: ['**/session/**', '**/cli/**', '**/account/**', '**/launch/**', '**/gate/**'],
  account: ['**/session/**', '**/cli/**', '**/backend/**', '**/launch/**', '**/gate/**'],
  launch: ['**/session/**', '**/cli/**', '**/backend/**', '**/account/**', '**/gate/**'],
  gate: [
    '**/session/**',
    '**/cli/**',
    '**/backend/**',
    '**/account/**',
    '**/launch/**',
    '**/system/**',
  ],
  session: ['**/cli/**'],
}

const arrowRules = Object.entries(arrows).map(([folder, group]) => ({
  files: [`lib/${folder}/**/*.ts`],
  ignores: pure,
  rules: {
    'no-restricted-imports': [
      'error',
      { patterns: [{ group, message: `lib/${folder} does not know these: see ARCHITECTURE.md.` }] },
    ],
  },
}))

const pureRules = Object.entries(arrows)
  .map(([folder, group]) => ({
    files: pure.filter((pattern) => pattern.startsWith(`lib/${folder}/`)),
    rules: {
      'no-restricted-imports': [
        'error',
        {
          patterns: [
            noEffects,
            { group, message: `lib/${folder} does not know these: see ARCHITECTURE.md.` },
          ],
        },
      ],
    },
  }))
  .filter(({ files }) => files.length > 0)

export default defineConfig(
  {
    ignores: [
      'dist/',
      'node_modules/',
      '.tap/',
      'examples/',
      'test/clients/',
      'test/engine/',
      '**/*.mjs',
    ],
  },
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-unused-vars': [
        'error',
        {
          argsIgnorePattern: '^_',
          ignoreRestSiblings: true,
          varsIgnorePattern: '^_$',
          destructuredArrayIgnorePattern: '^_',
        },
      ],
      '@typescript-eslint/no-confusing-void-expression': 'off',
      'no-eval': 'error',
    },
  },
  ...arrowRules,
  ...pureRules,
  {
    files: ['lib/policy/{loader,precompiled,trust}.ts'],
    rules: { 'no-restricted-imports': 'off' },
  },
  {
    files: ['test/**/*.ts', 'bench/**/*.ts'],
    rules: {
      '@typescript-eslint/no-floating-promises': 'off',
      '@typescript-eslint/require-await': 'off',
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/no-dynamic-delete': 'off',
      '@typescript-eslint/unbound-method': 'off',
      '@typescript-eslint/no-misused-spread': 'off',
    },
  },
)

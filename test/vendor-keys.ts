/** Keys in the vendors' shapes: those that policies are given, and an attacker's for the same hosts. */
export const keys = {
  OPENAI_API_KEY: 'sk-proj-policy0123456789',
  ANTHROPIC_API_KEY: 'sk-ant-api03-policy0123456789',
  TELEGRAM_BOT_TOKEN: '123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw',
  SLACK_BOT_TOKEN: 'xoxb-111-222-policy',
  SLACK_APP_TOKEN: 'xapp-1-A1-222-policy',
  GITHUB_TOKEN: 'ghp_policy0123456789abcdef',
}
export const attackers = {
  openai: 'sk-proj-attack0123456789',
  anthropic: 'sk-ant-api03-attack0123456789',
  telegram: '987654321:ZZHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw',
  slack: 'xoxb-111-222-attack',
  github: 'ghp_attack0123456789abcdef',
}

#!/bin/bash
# What agentjail could leave on a Mac: two outputs of it differ by exactly that. Needs root; changes nothing.
pf() { /sbin/pfctl -q "$@" 2>/dev/null; }
echo '# pf'
pf -s info | grep -o '^Status: [A-Za-z]*'
pf -s rules
pf -s nat
pf -a com.apple/agentjail -s rules
pf -a com.apple/agentjail -s nat
pf -a com.apple/agentjail -s Tables
echo '# accounts'
for kind in Users Groups; do
  /usr/bin/dscl . -list "/$kind" | grep -E '^(aj-|agentjail)'
done
echo '# launchd'
/bin/launchctl list | grep -o 'org\.agentjail\..*'
echo '# files'
ls -d /Library/LaunchDaemons/org.agentjail.* /var/run/agentjail* /var/log/agentjail* /var/agentjail* \
  /etc/agentjail* 2>/dev/null
echo '# processes'
ps -A -o user= -o command= | grep -E '^(aj-|agentjail)'
echo '# devices'
/sbin/ifconfig -l | tr ' ' '\n' | grep -E '^(pflog|feth77)'
exit 0

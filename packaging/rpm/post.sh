# After the files of UNIT are in place; $1 is how many versions are installed now.
if [ -e /usr/lib/sysusers.d/UNIT.conf ]; then
    systemd-sysusers UNIT.conf || :
fi
systemd-tmpfiles --create UNIT.conf || :
if [ "$1" -eq 1 ]; then
    systemctl --no-reload preset UNIT.service || :
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -eq 1 ]; then
        systemctl start UNIT.service || :
    else
        systemctl try-restart UNIT.service || :
    fi
fi

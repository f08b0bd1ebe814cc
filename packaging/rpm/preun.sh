# Before the files of UNIT go; $1 is 0 when no other version takes their place.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl --no-reload disable --now UNIT.service || :
    else
        systemctl --no-reload disable UNIT.service || :
    fi
fi

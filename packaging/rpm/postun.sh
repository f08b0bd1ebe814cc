# After files of UNIT have gone.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi

# Stopped by now: a running agent would take the flags again at once.
if [ "$1" -eq 0 ] && [ -d /var/lib/medevac-agent ]; then
    medevac-agent give-back --reason 'the package is being removed' ||
        echo "medevac-agent: autostart flags were not given back, see above; the guests do not start with this host" >&2
fi

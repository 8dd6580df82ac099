#compdef vhotplugctl
# Completion of vhotplugctl for zsh: commands, options, devices and VMs.
_vhotplugctl_devices() {
	local -a devices
	devices=(${(f)"$(vhotplugctl list $1 2>/dev/null | tail -n +2 | cut -d ' ' -f 1)"})
	compadd -a devices
}

_vhotplugctl_vms() {
	local -a vms
	vms=(${(f)"$(vhotplugctl status --json 2>/dev/null | sed -n 's/^ *"name": "\(.*\)",$/\1/p')"})
	compadd -a vms
}

_vhotplugctl_argument() {
	case $words[1] in
	attach | detach) (( CURRENT == 2 )) && _vhotplugctl_devices ;;
	explain | rule) (( CURRENT == 2 )) && _vhotplugctl_devices --all ;;
	vmm-args) _vhotplugctl_vms ;;
	select)
		if (( CURRENT == 2 )); then _vhotplugctl_devices; else _vhotplugctl_vms; fi ;;
	esac
}

_arguments \
	'--json[for programs]' \
	'--socket=[the control socket]:path:_files' \
	'--vm=[one VM]:vm:_vhotplugctl_vms' \
	'--tag=[one tag]:tag:' \
	'--all[also what no rule claims]' \
	'--device=[one device]:device:_vhotplugctl_devices' \
	'--since=[a time or an age]:time:' \
	'--limit=[lines]:number:' \
	'--follow[stay]' \
	'--until-replug[not remembered]' \
	'--qemu-bus-prefix=[ports]:prefix:' \
	'--qemu-bus-start-index=[first number]:number:' \
	'--timeout=[seconds]:number:' \
	'--require-pci[wait for a PCI device]' \
	'1:command:(list status history watch attach detach select explain rule ports suspend resume reload vmm-args)' \
	'*::argument:_vhotplugctl_argument'

#compdef vhotplugctl
# Completion of vhotplugctl for zsh: commands, options, devices and VMs.
_vhotplugctl_devices() {
	local -a devices all
	# What _arguments adds is for other functions.
	[[ $1 == --all ]] && all=(--all)
	devices=(${(f)"$(vhotplugctl list $all 2>/dev/null | tail -n +2 | cut -d ' ' -f 1)"})
	compadd -a devices
}

_vhotplugctl_vms() {
	local -a vms
	vms=(${(f)"$(vhotplugctl status --json 2>/dev/null | sed -n 's/^ *"name": "\(.*\)",*$/\1/p')"})
	compadd -a vms
}

local context state line
typeset -A opt_args
_arguments -C \
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
	'*:argument:->argument'
if [[ $state == argument ]]; then
	case $line[1]:$#line in
	attach:2 | detach:2 | select:2) _vhotplugctl_devices ;;
	explain:2 | rule:2) _vhotplugctl_devices --all ;;
	select:3 | vmm-args:2) _vhotplugctl_vms ;;
	esac
fi

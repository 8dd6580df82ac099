# Completion of vhotplugctl for bash: commands, options, devices and VMs.
_vhotplugctl_devices()
{
	# The third column of what "list" prints may be empty, the first is always there.
	vhotplugctl list ${1:+"$1"} 2>/dev/null | tail -n +2 | cut -d ' ' -f 1
}

_vhotplugctl_vms()
{
	vhotplugctl status --json 2>/dev/null | sed -n 's/^ *"name": "\(.*\)",$/\1/p'
}

_vhotplugctl()
{
	local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=
	local words= i n=0

	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--socket | --vm | --tag | --device | --since | --limit | --qemu-bus-* | --timeout) ((i++)) ;;
		-*) ;;
		*) if [[ $command ]]; then ((n++)); else command=${COMP_WORDS[i]}; fi ;;
		esac
	done
	case $previous in
	--vm) words=$(_vhotplugctl_vms) ;;
	--device) words=$(_vhotplugctl_devices) ;;
	--socket | --tag | --since | --limit | --qemu-bus-* | --timeout) return ;;
	*)
		case $command:$n:$current in
		*:*:-*) words="--json --socket --vm --tag --all --device --since --limit --follow --until-replug --qemu-bus-prefix --qemu-bus-start-index --timeout --require-pci --help --version" ;;
		:*) words="list status history watch attach detach select explain rule ports suspend resume reload vmm-args" ;;
		attach:0:* | detach:0:* | select:0:*) words=$(_vhotplugctl_devices) ;;
		explain:0:* | rule:0:*) words=$(_vhotplugctl_devices --all) ;;
		select:1:* | vmm-args:0:*) words=$(_vhotplugctl_vms) ;;
		esac
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
	# bash splits words at a colon, and would put the part before it twice.
	if [[ $current == *:* && $(type -t __ltrim_colon_completions) == function ]]; then
		__ltrim_colon_completions "$current"
	fi
}
complete -F _vhotplugctl vhotplugctl

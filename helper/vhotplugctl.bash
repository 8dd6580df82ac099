# Completion of vhotplugctl for bash: commands, options, devices and VMs.
_vhotplugctl_devices()
{
	# The third column of what "list" prints may be empty, the first is always there.
	vhotplugctl list ${1:+"$1"} 2>/dev/null | tail -n +2 | cut -d ' ' -f 1
}

_vhotplugctl_vms()
{
	vhotplugctl status --json 2>/dev/null | sed -n 's/^ *"name": "\(.*\)",*$/\1/p'
}

_vhotplugctl()
{
	# By blanks: bash's own words break at colons, and PCI addresses and ids have those.
	local line=${COMP_LINE:0:COMP_POINT} current='' previous='' command='' words='' i n=0 list
	read -ra list <<<"$line"
	[[ $line == *[[:blank:]] ]] && list+=("")
	current=${list[-1]} previous=${list[-2]}

	for ((i = 1; i < ${#list[@]} - 1; i++)); do
		case ${list[i]} in
		--socket | --vm | --tag | --device | --since | --limit | --qemu-bus-* | --timeout) ((i++)) ;;
		-*) ;;
		*) if [[ $command ]]; then ((n++)); else command=${list[i]}; fi ;;
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
	# What is before the last colon is on the line already, as a word of its own.
	if [[ $current == *:* && $COMP_WORDBREAKS == *:* ]]; then
		COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*:}"}"}")
	fi
}
complete -F _vhotplugctl vhotplugctl

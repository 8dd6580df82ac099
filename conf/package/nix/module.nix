# services.vhotplug for NixOS. Who has vhotplug's own module keeps enable, package, config,
# attachConnected and debug as they are: `config` is what vhotplug reads as JSON, and is imported.
# `settings` is a config in our own words instead; see vhotplug.conf(5).
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.vhotplug;
  inherit (lib) mkEnableOption mkIf mkOption optionalString types;
  generate = "${cfg.package}/bin/vhotplug-gen-rules";
  theirs = pkgs.writeText "vhotplug.json" (builtins.toJSON cfg.config);
  # Made and checked when the system is built: a mistake stops that, and not the devices.
  made = pkgs.runCommand "vhotplug-config" { } (
    ''
      mkdir -p $out/lib/udev/rules.d
    ''
    + (
      if cfg.settings != null then
        ''
          cp ${pkgs.writeText "vhotplug.conf" cfg.settings} $out/vhotplug.conf
        ''
      else
        ''
          ${generate} --import ${theirs} ${optionalString cfg.attachConnected "--attach-connected"} >$out/vhotplug.conf
        ''
    )
    + ''
      ${generate} -c $out/vhotplug.conf -o $out/lib/udev/rules.d/66-vhotplug.rules
    ''
  );
in
{
  options.services.vhotplug = {
    enable = mkEnableOption "moving devices into virtual machines as they are plugged in";
    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ./package.nix { };
      description = "The package to use.";
    };
    config = mkOption {
      type = types.attrs;
      default = { };
      description = "A config of vhotplug's, as its module takes it.";
    };
    settings = mkOption {
      type = types.nullOr types.lines;
      default = null;
      description = "The text of vhotplug.conf; with it, config and attachConnected say nothing.";
    };
    attachConnected = mkOption {
      type = types.bool;
      default = false;
      description = "Whether devices that are plugged in already are attached, with config.";
    };
    debug = mkOption {
      type = types.bool;
      default = false;
      description = "Whether the broker says more.";
    };
  };

  config = mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."vhotplug/vhotplug.conf".source = "${made}/vhotplug.conf";
    services.udev.packages = [ made cfg.package ];
    systemd.packages = [ cfg.package ];
    systemd.services.vhotplug = {
      wantedBy = [ "multi-user.target" ];
      restartTriggers = [ made ];
      serviceConfig.ExecStart = mkIf cfg.debug [
        ""
        "${cfg.package}/bin/vhotplug-broker --debug"
      ];
    };
    # A rebuild has udevd read the rules, but look at no device again. As vhotplug-gen-rules does it: by add, since at
    # another event a device keeps what was decided; then the broker is told.
    systemd.services.vhotplug-rules = {
      description = "Devices that are there already, by vhotplug's rules";
      wantedBy = [ "multi-user.target" ];
      after = [ "systemd-udevd.service" "vhotplug.service" ];
      restartTriggers = [ made ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = [
          "${config.systemd.package}/bin/udevadm trigger --settle --action=add -s usb -s pci -s input"
          "${config.systemd.package}/bin/systemctl try-reload-or-restart vhotplug.service"
        ];
      };
    };
  };
}

# vhotplug from this checkout, for nixpkgs' callPackage.
{
  lib,
  stdenv,
  cmake,
  inih,
  jansson,
  kmod,
  libvirt,
  libxml2,
  ninja,
  pciutils,
  pcre2,
  pkg-config,
  scdoc,
  sqlite,
  udev,
}:
stdenv.mkDerivation {
  pname = "vhotplug";
  version = "0.1.0";
  src = ../../..;
  nativeBuildInputs = [ cmake ninja pkg-config scdoc ];
  buildInputs = [ inih jansson kmod libvirt libxml2 pciutils pcre2 sqlite udev ];
  # Below the prefix, whatever that is.
  cmakeFlags = [
    "-DBUILD_TESTING=OFF"
    "-DCMAKE_BUILD_TYPE=Release"
    "-DVHOTPLUG_UNITDIR=lib/systemd/system"
    "-DVHOTPLUG_LATE_RULESDIR=lib/udev/rules.d"
  ];
  meta = {
    description = "Host devices into virtual machines as they are plugged in";
    license = lib.licenses.asl20;
    platforms = lib.platforms.linux;
    mainProgram = "vhotplug-gen-rules";
  };
}

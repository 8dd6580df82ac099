# Packages: `cpack -G DEB` (or RPM, TGZ) in the build folder. What is installed belongs to the package
# "vhotplug" unless its install() names another component.
set(VHOTPLUG_MAINTAINER "The vhotplug developers <vhotplug@localhost>" CACHE STRING
  "who answers for the packages")
set(package ${CMAKE_CURRENT_LIST_DIR})
set(made ${CMAKE_CURRENT_BINARY_DIR}/package)

# ---- what only packages have; scripts/install does the same by itself

string(TIMESTAMP CHANGELOG_DATE "%a, %d %b %Y %H:%M:%S +0000" UTC)
file(STRINGS broker/database.c SCHEMA_VERSION REGEX "^#define SCHEMA_VERSION [0-9]+")
string(REGEX MATCH "[0-9]+" SCHEMA_VERSION "${SCHEMA_VERSION}")
if(NOT SCHEMA_VERSION)
  message(FATAL_ERROR "broker/database.c does not say which SCHEMA_VERSION it knows")
endif()
string(REGEX REPLACE "^/" "" HELPER_PATH ${VHOTPLUG_LIBEXECDIR}/vhotplug-helper)
foreach(script preinst postinst prerm postrm)
  configure_file(${package}/debian/${script} ${made}/debian/${script} @ONLY
    FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
endforeach()
file(WRITE ${made}/debian/conffiles "${VHOTPLUG_CONFDIR}/vhotplug.conf\n")
configure_file(${package}/debian/overrides ${made}/overrides @ONLY)
configure_file(${package}/rpm/preun ${made}/rpm/preun @ONLY)
configure_file(${package}/changelog.in ${made}/changelog @ONLY)
execute_process(COMMAND gzip -9nkf ${made}/changelog)

set(doc ${CMAKE_INSTALL_DATADIR}/doc/vhotplug)
function(vhp_package_file FILE DESTINATION)
  install(FILES ${FILE} DESTINATION ${DESTINATION} ${ARGN} COMPONENT broker EXCLUDE_FROM_ALL)
endfunction()
foreach(file ${package}/debian/copyright ${made}/changelog.gz)
  install(FILES ${file} DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/vhotplug-tools COMPONENT tools EXCLUDE_FROM_ALL)
endforeach()
install(FILES ${package}/debian/overrides-tools DESTINATION ${CMAKE_INSTALL_DATADIR}/lintian/overrides
  RENAME vhotplug-tools COMPONENT tools EXCLUDE_FROM_ALL)
if(TARGET vhotplug-libvirt)
  foreach(file ${package}/debian/copyright ${made}/changelog.gz)
    install(FILES ${file} DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/vhotplug-libvirt COMPONENT libvirt
      EXCLUDE_FROM_ALL)
  endforeach()
  install(FILES ${package}/debian/overrides-libvirt DESTINATION ${CMAKE_INSTALL_DATADIR}/lintian/overrides
    RENAME vhotplug-libvirt COMPONENT libvirt EXCLUDE_FROM_ALL)
endif()
vhp_package_file(${CMAKE_SOURCE_DIR}/conf/vhotplug.conf ${VHOTPLUG_CONFDIR})
vhp_package_file(${package}/tmpfiles.conf lib/tmpfiles.d RENAME vhotplug.conf)
vhp_package_file(${package}/debian/copyright ${doc})
vhp_package_file(${made}/changelog.gz ${doc})
vhp_package_file(${CMAKE_SOURCE_DIR}/README.md ${doc})
vhp_package_file(${made}/overrides ${CMAKE_INSTALL_DATADIR}/lintian/overrides RENAME vhotplug)

# ---- the packages

set(CPACK_PACKAGE_NAME vhotplug)
set(CPACK_PACKAGE_VENDOR vhotplug)
set(CPACK_PACKAGE_CONTACT ${VHOTPLUG_MAINTAINER})
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "host devices into virtual machines as they are plugged in")
set(CPACK_RESOURCE_FILE_LICENSE ${CMAKE_SOURCE_DIR}/LICENSE)
set(CPACK_PACKAGING_INSTALL_PREFIX ${CMAKE_INSTALL_PREFIX})
set(CPACK_STRIP_FILES ON)
set(CPACK_PRE_BUILD_SCRIPTS ${package}/prepare.cmake)
# A component is declared when something is installed by it.
get_cmake_property(CPACK_COMPONENTS_ALL COMPONENTS)

set(about_broker "Rules in one INI file say which USB, PCI and input devices
belong to which virtual machine. They are compiled into udev rules;
a small broker hands a device to QEMU or crosvm the moment it is
plugged in, and keeps a history that sqlite3 can read.")
set(about_tools "The command-line tool for the broker: what is where and why,
attach, detach.")
set(about_libvirt "What the broker needs for virtual machines that
belong to libvirt (type = libvirt).")
set(CPACK_COMPONENT_BROKER_DESCRIPTION ${about_broker})
set(CPACK_COMPONENT_TOOLS_DESCRIPTION ${about_tools})
set(CPACK_COMPONENT_LIBVIRT_DESCRIPTION ${about_libvirt})

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_BROKER_PACKAGE_NAME vhotplug)
set(CPACK_DEBIAN_TOOLS_PACKAGE_NAME vhotplug-tools)
set(CPACK_DEBIAN_LIBVIRT_PACKAGE_NAME vhotplug-libvirt)
set(CPACK_DEBIAN_BROKER_PACKAGE_DEPENDS "udev, init-system-helpers (>= 1.54~)")
set(CPACK_DEBIAN_BROKER_PACKAGE_RECOMMENDS vhotplug-tools)
set(CPACK_DEBIAN_BROKER_PACKAGE_SUGGESTS "sqlite3, qemu-system-x86")
set(CPACK_DEBIAN_TOOLS_PACKAGE_DEPENDS "vhotplug (>= ${PROJECT_VERSION})")
# Broker and program speak the words of one release.
set(CPACK_DEBIAN_LIBVIRT_PACKAGE_DEPENDS "vhotplug (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_LIBVIRT_PACKAGE_SUGGESTS "libvirt-daemon-system")
set(CPACK_DEBIAN_BROKER_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_BROKER_PACKAGE_CONTROL_EXTRA ${made}/debian/preinst ${made}/debian/postinst
  ${made}/debian/prerm ${made}/debian/postrm ${made}/debian/conffiles)

set(CPACK_RPM_COMPONENT_INSTALL ON)
set(CPACK_RPM_FILE_NAME RPM-DEFAULT)
set(CPACK_RPM_PACKAGE_LICENSE Apache-2.0)
set(CPACK_RPM_BROKER_PACKAGE_NAME vhotplug)
set(CPACK_RPM_TOOLS_PACKAGE_NAME vhotplug-tools)
set(CPACK_RPM_LIBVIRT_PACKAGE_NAME vhotplug-libvirt)
set(CPACK_RPM_TOOLS_PACKAGE_REQUIRES "vhotplug >= ${PROJECT_VERSION}")
set(CPACK_RPM_LIBVIRT_PACKAGE_REQUIRES "vhotplug = ${PROJECT_VERSION}")
set(CPACK_RPM_BROKER_POST_INSTALL_SCRIPT_FILE ${package}/rpm/post)
set(CPACK_RPM_BROKER_PRE_UNINSTALL_SCRIPT_FILE ${made}/rpm/preun)
set(CPACK_RPM_BROKER_USER_FILELIST "%config(noreplace) ${VHOTPLUG_CONFDIR}/vhotplug.conf")
set(CPACK_RPM_EXCLUDE_FROM_AUTO_FILELIST_ADDITION /etc ${VHOTPLUG_CONFDIR} /usr/lib/systemd
  /usr/lib/systemd/system /usr/lib/tmpfiles.d ${CMAKE_INSTALL_PREFIX}/libexec
  /usr/share/man /usr/share/man/man5 /usr/share/man/man8 /usr/share/lintian /usr/share/lintian/overrides)

include(CPack)

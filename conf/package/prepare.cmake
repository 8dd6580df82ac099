# What CPack has gathered, before it becomes a package: manual pages are compressed, as every
# distribution has them. An archive is for those who do that themselves.
if(CPACK_GENERATOR STREQUAL "TGZ")
  return()
endif()
# Without them CPack makes a package that needs no library.
if(CPACK_GENERATOR STREQUAL "DEB")
  foreach(tool dpkg-shlibdeps file)
    find_program(found_${tool} ${tool} NO_CMAKE_SYSTEM_PATH)
    if(NOT found_${tool})
      message(FATAL_ERROR "${tool} is not here: apt install dpkg-dev file")
    endif()
  endforeach()
endif()
file(GLOB_RECURSE pages "${CPACK_TEMPORARY_DIRECTORY}/*.[1-9]")
list(FILTER pages INCLUDE REGEX "/man/man[1-9]/")
foreach(page ${pages})
  execute_process(COMMAND gzip -9nf ${page} COMMAND_ERROR_IS_FATAL ANY)
endforeach()

# SPDX-License-Identifier: Apache-2.0
# cmake -DBUILD=... -DPREFIX=... -P install.cmake: the package with and without its library.
foreach(component headers lib)
  execute_process(COMMAND "${CMAKE_COMMAND}" --install "${BUILD}" --component ${component} --prefix "${PREFIX}"
    COMMAND_ERROR_IS_FATAL ANY)
  if(component STREQUAL headers)
    execute_process(COMMAND "${CMAKE_COMMAND}" --install "${BUILD}" --component headers --prefix "${PREFIX}_headers"
      COMMAND_ERROR_IS_FATAL ANY)
  endif()
endforeach()

# SPDX-License-Identifier: Apache-2.0
# The README's example is a program: it is cut out, built and run.
file(READ "${PROJECT_SOURCE_DIR}/README.md" readme)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/README.md")
string(REGEX MATCH "```cpp\n(#include [^`]*)```" found "${readme}")
if(NOT found)
  message(FATAL_ERROR "README.md has no example that begins with an #include")
endif()
string(REGEX REPLACE "^```cpp\n(.*)```$" "\\1" example "${found}")
file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/readme_example.cpp" CONTENT "${example}" @ONLY)
add_executable(readme_example "${CMAKE_CURRENT_BINARY_DIR}/readme_example.cpp")
target_link_libraries(readme_example PRIVATE sluice_kernels)
add_test(NAME readme.example COMMAND readme_example)

# SPDX-License-Identifier: Apache-2.0
# `sluice slot` against a real llama.cpp, where cmake/deps.cmake put one into build/llama_cpp; else these tests are skipped.
find_program(SLUICE_PYTHON NAMES python3 python)
if(SLUICE_PYTHON)
  cmake_path(SET here NORMALIZE "${CMAKE_CURRENT_LIST_DIR}")
  cmake_path(SET root NORMALIZE "${CMAKE_CURRENT_LIST_DIR}/../../..")
  foreach(test server flash transposed unified split quantised uncalibrated session refused qwen gemma)
    add_test(NAME llama_cpp.${test} COMMAND "${SLUICE_PYTHON}" "${here}/real.py" ${test} --tool "$<TARGET_FILE:sluice_tool>"
      --data "${root}/test/data" --models "${CMAKE_BINARY_DIR}/models" "${root}/build/models"
      --python "${CMAKE_BINARY_DIR}/llama_cpp/bin/python")
    set_tests_properties(llama_cpp.${test} PROPERTIES LABELS llama_cpp SKIP_RETURN_CODE 77 TIMEOUT 900)
  endforeach()
endif()

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <command.hpp>

// What `sluice` can do, a function for each file of commands.
void add_calibrate(program& p);
void add_code(program& p);      // encode, decode, truncate
void add_inspect(program& p);   // info, verify
void add_transfer(program& p);  // put, get
void add_simulate(program& p);
void add_slot(program& p);  // slot pack, unpack, info, calibrate: examples/llama_cpp

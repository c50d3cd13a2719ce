#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes libmooncake_store.so, the C interface of a Mooncake Store, out of a released client within a minute; Mooncake's own
# build (WITH_STORE_C_SHARED) takes everything it is made of and an hour.
#
#   mooncake_library.sh MOONCAKE YALANTINGLIBS SITE OUT
#
# MOONCAKE is its repository at the tag of the wheel, YALANTINGLIBS the one that this tag names in extern/, SITE the folder
# where pip put mooncake-transfer-engine-non-cuda (site-packages), OUT the library to write. What is compiled is Mooncake's
# store_c.cpp as it is; what it calls is in the wheel's store.so, which as a Python module also wants libpython.
# Done with 0.3.12.post1, g++ 12 and Debian's libboost-dev libgoogle-glog-dev libgflags-dev libjsoncpp-dev libyaml-cpp-dev
# libibverbs-dev libnuma-dev libxxhash-dev libpython3.11. That wheel wants libcudart.so.12 as well, without a GPU: pip's
# nvidia-cuda-runtime-cu12 has it.
set -e
mooncake=$1 ylt=$2 site=$3 out=$4
store=$mooncake/mooncake-store/include cachelib=$mooncake/mooncake-store/include/cachelib_memory_allocator
python=$(ldconfig -p | sed -n 's/.*=> \(.*libpython3[.0-9]*so[.0-9]*\)$/\1/p' | head -1)
"${CXX:-c++}" -std=c++20 -O1 -fPIC -shared -fcoroutines -DASIO_SEPARATE_COMPILATION -DASIO_DYN_LINK -DYLT_ENABLE_IBV \
  -DCONFIG_ERDMA -DUSE_TCP -DUSE_URING -I"$store" -I"$cachelib" -I"$cachelib/include" -I"$cachelib/fake_include" \
  -I"$mooncake/mooncake-transfer-engine/include" -I"$mooncake/mooncake-common/include" -I"$ylt/include" \
  -I"$ylt/include/ylt/thirdparty" -I"$ylt/include/ylt/standalone" -I/usr/include/jsoncpp \
  "$mooncake/mooncake-store/src/store_c.cpp" -o "$out" -L"$site/mooncake" -l:store.so "$python" \
  -Wl,--disable-new-dtags,-rpath,"$site/mooncake:$site/nvidia/cuda_runtime/lib"

# The flags that every file shares, as the library vd_flags; used by the tree and by tests/aarch64.

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_C_FLAGS_RELEASE "-O2 -g1")
set(CMAKE_C_FLAGS_DEBUG "-O1 -g")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g") # CMake's own would drop the asserts
set(CMAKE_C_FLAGS_MINSIZEREL "-Os -g1")

string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" arch)
if(arch MATCHES "x86_64|amd64")
  set(VD_X86 ON)
elseif(arch MATCHES "aarch64|arm64")
  set(VD_ARM64 ON)
endif()

# The arithmetic is normative: no contraction, no reassociation, asserts kept.
add_library(vd_flags INTERFACE)
target_compile_options(vd_flags INTERFACE
  -ffp-contract=off -fno-fast-math -fno-strict-aliasing -fno-common -fstack-protector-strong
  -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla
  -Wpointer-arith -Wwrite-strings -Wformat=2 -Wno-format-nonliteral -Wno-unused-parameter)
target_compile_definitions(vd_flags INTERFACE _GNU_SOURCE VD_VERSION="${PROJECT_VERSION}")

// Includes what this project declares of the kernel: all of it is in wdm.h.
#pragma once

#include <wdm.h>

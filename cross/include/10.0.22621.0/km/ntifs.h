// Includes wdm.h, which has all of this project's declarations of the kernel.
#pragma once

#include <wdm.h>

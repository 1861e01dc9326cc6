// The C runtime's types that the other headers build on.
//
// Source: the C standard (7.19), with the widths of the 64-bit Windows ABIs
// (learn.microsoft.com, "x64 ABI conventions", "Overview of ARM64 ABI
// conventions").
#pragma once

typedef unsigned long long size_t;
typedef unsigned short wchar_t;

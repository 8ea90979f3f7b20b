/* The one function of this DLL that Rust's standard library calls. */
#include <windows.h>

BOOLEAN WINAPI SystemFunction036(PVOID, ULONG);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE room, SIZE_T length) {
  return SystemFunction036(room, (ULONG)length);
}

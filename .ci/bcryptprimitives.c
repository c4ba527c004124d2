/* bcryptprimitives.dll, which Go's runtime loads on Windows and which Debian's wine lacks. For tests only. */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID data, ULONG n); /* RtlGenRandom of advapi32 */

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T n)
{
	return SystemFunction036(data, (ULONG)n);
}

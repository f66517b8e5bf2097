/* Preloaded into the kernel of a kernel node (crates/testbed), which is a process of the host.
 *
 * That kernel holds a guest process's vector registers in a buffer as large as it knows them, up to
 * PKRU. A host whose processor has more (AMX) takes registers only whole: with a shorter buffer
 * ptrace answers EFAULT and the kernel gives up. So a short buffer is filled up on the way to the
 * host and cut on the way back. What lies beyond it belongs to states the guest never has.
 *
 * The kernel has one thread: static buffers need no lock. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* Intel SDM volume 1, 13.4: the XSAVE header follows 512 bytes of legacy registers and begins with
 * a mask of the states that are in use. */
#define HEADER 512
/* x87, SSE, AVX, MPX, AVX-512 (bits 0 to 7) and PKRU (bit 9): what the kernel's buffer holds. */
#define KNOWN_STATES UINT64_C(0x2ff)

static _Alignas(64) unsigned char area[1 << 16];
/* How much the host takes and gives; 0 until it was asked. */
static size_t whole;

static long host(long request, pid_t pid, void *address, void *data)
{
	return syscall(SYS_ptrace, request, pid, address, data);
}

static long vectors(long request, pid_t pid, void *address, struct iovec *buffer)
{
	struct iovec all = { area, sizeof area };
	uint64_t states;

	if (request == PTRACE_GETREGSET || whole == 0) {
		if (host(PTRACE_GETREGSET, pid, address, &all) < 0)
			return -1;
		whole = all.iov_len;
	}
	if (buffer->iov_len >= whole || buffer->iov_len < HEADER + sizeof states)
		return host(request, pid, address, buffer);
	if (request == PTRACE_GETREGSET) {
		memcpy(buffer->iov_base, area, buffer->iov_len);
		return 0;
	}
	memcpy(area, buffer->iov_base, buffer->iov_len);
	memset(area + buffer->iov_len, 0, whole - buffer->iov_len);
	memcpy(&states, area + HEADER, sizeof states);
	states &= KNOWN_STATES;
	memcpy(area + HEADER, &states, sizeof states);
	all.iov_len = whole;
	return host(PTRACE_SETREGSET, pid, address, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	pid_t pid;
	void *address, *data;

	va_start(arguments, request);
	pid = va_arg(arguments, pid_t);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);

	switch (request) {
	case PTRACE_PEEKTEXT:
	case PTRACE_PEEKDATA:
	case PTRACE_PEEKUSER: {
		/* The C library returns the word, the system call stores it. */
		long word;
		if (host(request, pid, address, &word) < 0)
			return -1;
		errno = 0;
		return word;
	}
	case PTRACE_GETREGSET:
	case PTRACE_SETREGSET:
		if ((uintptr_t)address == NT_X86_XSTATE)
			return vectors(request, pid, address, data);
		/* fall through */
	default:
		return host(request, pid, address, data);
	}
}

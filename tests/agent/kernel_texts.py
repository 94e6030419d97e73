"""Error records, a panic and its machine checks, as kernels print them."""

# As drivers/firmware/efi/cper.c prints them, without the prefix; the spelling of locations changed in 5.18.
MEMORY = """It has been corrected by h/w and requires no further action
event severity: corrected
 precise tstamp: 2026-11-23 17:33:11
 Error 0, type: corrected
 fru_text: CPU1_DIMM_B1
  section_type: memory error
  error_status: Storage error in DRAM memory (0x0000000000000400)
  physical_address: 0x0000002b54e2d580
  node:1 card:2 module:0 rank:1 bank:12 device:4 row:20411 column:248 bit_position:3
  error_type: 2, single-bit ECC
  DIMM location: NODE 1 DIMM_B1"""
BARE = """event severity: recoverable
 Error 0, type: recoverable
  section_type: memory error
  physical_address: 0x0000001000000000
  node: 0 card: 1 module: 2 rank: 0 bank_group: 1 bank_address: 3 row: 7 column: 8
  error_type: 3, multi-bit ECC
 Error 1, type: info
  section_type: memory error
  node: 0 card: 1 module: 3
 Error 2, type: corrected
  section_type: PCIe error
  port_type: 4, root port
 Error 3, type: corrected
  section_type: memory error
  DIMM location: not present. DMI handle: 0x1103"""
PROCESSOR = """event severity: fatal
 Error 0, type: fatal
  section_type: general processor error
  processor_type: 0, IA32/X64
  error_type: 0x01
  cache error
  level: 2
  processor_id: 0x0000000000000010
 Error 1, type: fatal
  section_type: general processor error
  error_type: 0x04
  bus error"""

# Of Debian's 6.1 and 6.12 kernels, in which a fatal machine check was injected; as pstore kept them.
PANIC = """Panic#1 Part1
<6>[    5.603480] ramoops: using 0x100000@0x28000000, ecc: 16
<0>[    5.759713] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: be00000000010090
<0>[    5.760629] mce: [Hardware Error]: RIP !INEXACT! 10:<ffffffffb7e592eb> {native_safe_halt+0xb/0x10}
<0>[    5.760629] mce: [Hardware Error]: TSC b0bef73e8 ADDR 1234000 MISC 8c 
<0>[    5.760629] mce: [Hardware Error]: PROCESSOR 2:60fb1 TIME 1795473405 SOCKET 0 APIC 0 microcode 1000065
<0>[    5.760629] mce: [Hardware Error]: Machine check: Processor Context Corrupt
<0>[    5.760629] Kernel panic - not syncing: Fatal local machine check"""  # noqa: W291

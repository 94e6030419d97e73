// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Memory controllers that were never there, registered with the kernel's own EDAC core, so that the trees in sysfs, the
 * counters and the trace events are the core's work and only the hardware is pretended. Layers, labels and flags are
 * those of the drivers of Linux 6.1 and 6.12 that most servers use:
 *
 *     layout=skx      skx_edac and i10nm_edac (skx_common.c): two controllers, slots, a label for each, memory of two
 *                     kinds of sizes, empty slots in between
 *     layout=sb       sb_edac: one controller of four channels with three slots each
 *     layout=amd64    amd64_edac with UMCs: chip selects by channel, labels that the core made itself
 *
 * An error: echo 'controller type count address syndrome top middle message|detail' > parameters/inject, where type is a
 * number of enum hw_event_mc_err_type, and top and middle are the layers, -1 where they aren't known.
 *
 * What firmware would report, as the trace event alone: echo 'extlog severity address rank bank row column', 'arm severity
 * mpidr kind' or 'non_standard severity' > parameters/report. The severity of an extlog is that of the UEFI specification,
 * appendix N; the others have those of include/acpi/ghes.h.
 *
 * It calls exported functions only and touches only what include/linux/edac.h shows; drivers/edac/edac_mc.h isn't among
 * the headers that distributions give out, hence the declarations below.
 */
#include <linux/cper.h>
#include <linux/edac.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/platform_device.h>
#include <linux/string.h>
#include <linux/version.h>
#include <ras/ras_event.h>

struct mem_ctl_info *edac_mc_alloc(unsigned int mc_num, unsigned int n_layers, struct edac_mc_layer *layers,
				   unsigned int sz_pvt);
int edac_mc_add_mc_with_groups(struct mem_ctl_info *mci, const struct attribute_group **groups);
struct mem_ctl_info *edac_mc_del_mc(struct device *dev);
void edac_mc_free(struct mem_ctl_info *mci);
void edac_mc_handle_error(const enum hw_event_mc_err_type type, struct mem_ctl_info *mci, const u16 error_count,
			  const unsigned long page_frame_number, const unsigned long offset_in_page,
			  const unsigned long syndrome, const int top_layer, const int mid_layer, const int low_layer,
			  const char *msg, const char *other_detail);

#define CONTROLLERS_MAX 2
#define PAGES_PER_GIB (1u << (30 - PAGE_SHIFT))

struct slot {
	int top, middle;
	unsigned int gib;
};

struct layout {
	const char *name, *driver, *controller;
	unsigned int controllers;
	enum edac_mc_layer_type top, middle;
	unsigned int top_size, middle_size;
	bool top_is_csrow; /* else the middle layer is the virtual chip select */
	u32 grain;
	const char *label; /* of controller, channel and slot; NULL: the core's own */
	struct slot slots[8]; /* ends with one of no size */
};

static const struct layout layouts[] = {
	{ "skx", "skx_edac", "Skylake Socket#0 IMC#%d", 2, EDAC_MC_LAYER_CHANNEL, EDAC_MC_LAYER_SLOT, 4, 2, false, 32,
	  "CPU_SrcID#0_MC#%d_Chan#%d_DIMM#%d", { { 0, 0, 32 }, { 0, 1, 16 }, { 2, 0, 32 } } },
	{ "sb", "sb_edac.c", "Broadwell SrcID#0_Ha#%d", 1, EDAC_MC_LAYER_CHANNEL, EDAC_MC_LAYER_SLOT, 4, 3, false, 32,
	  "CPU_SrcID#0_Ha#%d_Chan#%d_DIMM#%d", { { 0, 0, 16 }, { 1, 0, 16 }, { 3, 2, 8 } } },
	{ "amd64", "amd64_edac", "F17h_M30h", 1, EDAC_MC_LAYER_CHIP_SELECT, EDAC_MC_LAYER_CHANNEL, 8, 8, true, 64,
	  NULL, { { 0, 0, 16 }, { 1, 0, 16 }, { 2, 3, 8 }, { 3, 3, 8 }, { 0, 7, 16 }, { 1, 7, 16 } } },
};

static char *layout_name = "skx";
module_param_named(layout, layout_name, charp, 0444);

static const struct layout *layout;
static struct platform_device *devices[CONTROLLERS_MAX];
static struct mem_ctl_info *controllers[CONTROLLERS_MAX];
static char names[CONTROLLERS_MAX][32];

static int inject(const char *text, const struct kernel_param *parameter)
{
	int controller, type, top, middle, begin = 0;
	unsigned int count;
	unsigned long address, syndrome;
	char line[512], *detail, *message;

	if (sscanf(text, "%d %d %u %lx %lx %d %d %n", &controller, &type, &count, &address, &syndrome, &top, &middle,
		   &begin) != 7 || controller < 0 || controller >= CONTROLLERS_MAX || !controllers[controller])
		return -EINVAL;
	strscpy(line, text + begin, sizeof(line));
	detail = strim(line);
	message = strsep(&detail, "|");
	edac_mc_handle_error(type, controllers[controller], count, address >> PAGE_SHIFT, address & ~PAGE_MASK, syndrome,
			     top, middle, -1, message, detail ?: "");
	return 0;
}

static const struct kernel_param_ops inject_ops = { .set = inject };
module_param_cb(inject, &inject_ops, NULL, 0200);

static void report_extlog(u8 severity, u64 address, u16 rank, u16 bank, u16 row, u16 column)
{
	struct cper_sec_mem_err error = {
		.validation_bits = CPER_MEM_VALID_PA | CPER_MEM_VALID_NODE | CPER_MEM_VALID_CARD | CPER_MEM_VALID_MODULE |
				   CPER_MEM_VALID_BANK | CPER_MEM_VALID_ROW | CPER_MEM_VALID_COLUMN |
				   CPER_MEM_VALID_RANK_NUMBER,
		.physical_addr = address, .card = 1, .rank = rank, .bank = bank, .row = row, .column = column,
	};

	trace_extlog_mem_event(&error, 1, &guid_null, "DIMM_C1", severity);
}

static void report_arm(u8 severity, u64 mpidr, u8 kind)
{
	struct cper_sec_proc_arm processor = { .validation_bits = CPER_ARM_VALID_MPIDR, .err_info_num = 1, .mpidr = mpidr };
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	struct cper_arm_err_info error = { .length = sizeof(error), .type = kind };

	trace_arm_event(&processor, (u8 *)&error, sizeof(error), NULL, 0, NULL, 0, severity, 0);
#else
	trace_arm_event(&processor); /* tells neither kind nor severity */
#endif
}

static int report(const char *text, const struct kernel_param *parameter)
{
	u8 severity, kind;
	u16 rank, bank, row, column;
	u64 number;

	if (sscanf(text, "extlog %hhu %llx %hu %hu %hu %hu", &severity, &number, &rank, &bank, &row, &column) == 6)
		report_extlog(severity, number, rank, bank, row, column);
	else if (sscanf(text, "arm %hhu %llx %hhu", &severity, &number, &kind) == 3)
		report_arm(severity, number, kind);
	else if (sscanf(text, "non_standard %hhu", &severity) == 1)
		trace_non_standard_event(&guid_null, &guid_null, "BOARD", severity, "\x01\x02", 2);
	else
		return -EINVAL;
	return 0;
}

static const struct kernel_param_ops report_ops = { .set = report };
module_param_cb(report, &report_ops, NULL, 0200);

static void fill(struct mem_ctl_info *mci, int number)
{
	const struct slot *slot;
	struct dimm_info *dimm;

	for (slot = layout->slots; slot->gib; slot++) {
		dimm = edac_get_dimm(mci, slot->top, slot->middle, 0);
		dimm->nr_pages = slot->gib * PAGES_PER_GIB;
		dimm->grain = layout->grain;
		dimm->mtype = MEM_RDDR4;
		dimm->dtype = DEV_X4;
		dimm->edac_mode = EDAC_SECDED;
		if (layout->label)
			snprintf(dimm->label, sizeof(dimm->label), layout->label, number, slot->top, slot->middle);
	}
}

static int add(int number)
{
	struct edac_mc_layer layers[] = {
		{ .type = layout->top, .size = layout->top_size, .is_virt_csrow = layout->top_is_csrow },
		{ .type = layout->middle, .size = layout->middle_size, .is_virt_csrow = !layout->top_is_csrow },
	};
	struct mem_ctl_info *mci;

	devices[number] = platform_device_register_simple("pretended", number, NULL, 0);
	if (IS_ERR(devices[number]))
		return PTR_ERR(devices[number]);
	mci = edac_mc_alloc(number, ARRAY_SIZE(layers), layers, 0);
	if (!mci)
		return -ENOMEM;
	snprintf(names[number], sizeof(names[number]), layout->controller, number);
	mci->pdev = &devices[number]->dev;
	mci->mod_name = layout->driver;
	mci->ctl_name = names[number];
	mci->dev_name = dev_name(mci->pdev);
	mci->mtype_cap = MEM_FLAG_RDDR4;
	mci->edac_ctl_cap = EDAC_FLAG_SECDED;
	mci->edac_cap = EDAC_FLAG_SECDED;
	fill(mci, number);
	if (edac_mc_add_mc_with_groups(mci, NULL)) {
		edac_mc_free(mci);
		return -EINVAL;
	}
	controllers[number] = mci;
	return 0;
}

static void remove_all(void)
{
	int number;

	for (number = 0; number < CONTROLLERS_MAX; number++) {
		if (controllers[number]) {
			edac_mc_del_mc(&devices[number]->dev);
			edac_mc_free(controllers[number]);
		}
		if (!IS_ERR_OR_NULL(devices[number]))
			platform_device_unregister(devices[number]);
	}
}

static int __init add_all(void)
{
	int number, error = -EINVAL;

	for (number = 0; number < ARRAY_SIZE(layouts); number++)
		if (!strcmp(layout_name, layouts[number].name))
			layout = &layouts[number];
	if (!layout)
		return error;
	for (number = 0; number < layout->controllers; number++) {
		error = add(number);
		if (error) {
			remove_all();
			return error;
		}
	}
	return 0;
}

module_init(add_all);
module_exit(remove_all);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("EDAC trees of common servers, for tests");

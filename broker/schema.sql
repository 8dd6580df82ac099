-- vhotplug's memory. The two views are the interface and stay as they are; the tables may change.
-- Times in tables are milliseconds since 1970, in views local time.

-- Every event the helper delivered, once: what has been seen is dropped by (boot_id, seqnum).
create table event (
  id       integer primary key,
  time     integer not null,
  boot_id  text    not null,
  seqnum   integer not null,
  action   text    not null,
  devpath  text    not null,
  inode    integer not null,
  vm       text    not null,
  rule     text    not null,
  unique (boot_id, seqnum)
) strict;

-- Every device instance that a rule claims or a VM holds: boot, place, and the inode of its sysfs
-- directory, which is another one after a replug.
create table device (
  id       integer primary key,
  boot_id  text    not null,
  devpath  text    not null,
  inode    integer not null,
  kind     text    not null,
  device   text    not null,   -- the kernel's name: 1-2 is port 2 of bus 1
  node     text    not null,
  name     text    not null,
  vid_pid  text    not null,
  rule     text    not null,   -- '' once no rule wants it any more
  vms      text    not null,   -- candidates, comma-separated, in order
  config   text    not null,   -- digest of the config that decided
  seqnum   integer not null,   -- the newest event that counted
  state    text    not null,
  reason   text    not null,
  vm       text    not null,   -- where it is, or where it should go
  handle   text    not null,   -- what the VMM knows it by; '' while it has none
  since    integer not null,
  options  integer not null,   -- what the rule says beyond the VM: broker/device.h
  rank     integer not null,   -- of the rule in the config
  family   text    not null,
  family_vm text   not null,
  leader   text    not null,   -- devpath of the device whose IOMMU group it is given with
  away     integer not null,   -- why it is to be in no VM: enum device_away in broker/device.h
  chosen   text    not null,   -- the VM that a person has chosen for this instance; ''
  unique (boot_id, devpath, inode)
) strict;

-- What people have chosen for a device, for the next time that it is plugged in.
create table choice (
  whom     text primary key,   -- kind, ids, and serial number or place
  vm       text    not null,   -- ''
  detached integer not null,   -- taken out by hand, and to stay out
  time     integer not null
) strict;

create table action (
  id           integer primary key,
  time         integer not null,
  device       text    not null,
  name         text    not null,
  vid_pid      text    not null,
  vm           text    not null,
  action       text    not null,
  cause        text    not null,
  rule         text    not null,
  result       text    not null,
  milliseconds integer not null,
  detail       text    not null
) strict;

create view assignments as
  select device, name, vid_pid,
         case when kind = 'usb' then substr(device, instr(device, '-') + 1) else '' end as port,
         vm, state, reason, rule,
         strftime('%Y-%m-%d %H:%M:%f', since / 1000.0, 'unixepoch', 'localtime') as since
    from device order by device.id;

create view history as
  select strftime('%Y-%m-%d %H:%M:%f', time / 1000.0, 'unixepoch', 'localtime') as time,
         device, vm, action, cause, rule, result, milliseconds, detail, name, vid_pid
    from action order by action.id;

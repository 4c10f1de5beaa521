#!/usr/bin/env bash
# Start a SLURM of one node, this machine, without accounting; needs root and Debian's slurmctld,
# slurmd, slurm-client and munge. Two GPUs are made up: /dev/null and /dev/zero.
set -euo pipefail
if [ -e /etc/slurm/slurm.conf ] && ! grep -q ClusterName=engram /etc/slurm/slurm.conf; then
  echo "/etc/slurm/slurm.conf is there and not of this script: it is left alone" >&2
  exit 1
fi
state=/var/lib/engram-slurm
mkdir -p "$state/state" "$state/spool" /run/munge
chown munge:munge /run/munge
pgrep -x munged >/dev/null || runuser -u munge -- munged
cat >/etc/slurm/slurm.conf <<X
ClusterName=engram
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
ReturnToService=2
MinJobAge=600
StateSaveLocation=$state/state
SlurmdSpoolDir=$state/spool
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(awk '/MemTotal/ {print int($2 / 1140)}' /proc/meminfo) Gres=gpu:2
PartitionName=cpu Nodes=localhost Default=YES DefMemPerCPU=500
X
printf 'Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n' >/etc/slurm/gres.conf
slurmctld
slurmd -N localhost
for _ in $(seq 50); do
  sinfo -h -o %T 2>/dev/null | grep -q idle && exit 0
  sleep 0.2
done
exit 1

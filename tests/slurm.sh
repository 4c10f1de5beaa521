#!/usr/bin/env bash
# Start a SLURM of one node, this machine, without accounting, unless one runs jobs here already; needs
# root and Debian's slurmctld, slurmd, slurm-client and munge. Two GPUs are made up: /dev/null and
# /dev/zero. It ends in a minute, and with an error, where SLURM runs no job.
set -euo pipefail
conf=/etc/slurm/slurm.conf
state=/var/lib/engram-slurm

runs() { timeout 20 srun -n1 --immediate=15 true; }

stop() { # what this script started, at once: it keeps nothing
  for daemon in slurmd slurmctld; do
    pkill -KILL -x -F "$state/$daemon.pid" "$daemon" 2>/dev/null || true
    rm -f "$state/$daemon.pid"
  done
}

runs >/dev/null 2>&1 && exit 0
if [ -e "$conf" ] && ! grep -q ClusterName=engram "$conf"; then
  echo "$conf is there and not of this script: it is left alone" >&2
  exit 1
fi
mkdir -p "$state/state" "$state/spool" /run/munge
stop
trap 'echo "no SLURM that runs jobs; see $state/*.log" >&2; stop' EXIT
chown munge:munge /run/munge
pgrep -x munged >/dev/null || timeout 20 runuser -u munge -- munged
cat >"$conf" <<X
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
timeout 20 slurmctld -c # jobs of an earlier one are forgotten
timeout 20 slurmd -N localhost
runs
trap - EXIT

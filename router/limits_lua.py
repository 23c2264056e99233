"""The script by which replicas share limits: one call says what a replica has, and asks for more, of one tenant.

Floor: text for `limits_redis`. It runs on Redis 6.2 and later and on Valkey, and touches only keys of one tenant, which
carry the same hash tag, so that a cluster has them in one place. Time is the store's own. Rules of calendars are those
of `policies.admission.calendar`, and why no limit is exceeded is told in `policies.admission.leased`.

    KEYS[1]  who shares: replica -> "last word, number of its last call"; `epoch`; `recovery`
    then per counter   everybody's figures, and for windows ours

    ARGV[1], msgpack: {replica, number, sent at, epoch, returning, replicas, leaving, counters}
    window:  {0, limit, monthly, seconds, slice seconds, slice, {slice, figure, ...}, least, smallest, more, free,
              reserve held, -1: none wanted, {slice, everybody's figure, ...} for a store that has lost its memory}
    seats:   {1, limit, held, taken, needed, spare}
    answer:  {status, time, epoch, replicas, recovering, answers}
    window:  {granted, used, reserve, others' reserves, others' unspent chunks, hungry, last slice, "slice:figure;..."}
    seats:   {ours, others', idle ones of these, hungry, starving}

An `epoch` is the life of a tenant's counts in the store: where it is another than the replica knows, the counts are
gone (or begin), and the replica tells all that it has before anything is granted. Recovery is the time, at most
`RECOVERY_SECONDS`, in which replicas do so after the store was away. A store that has only just started may have lost
its memory, and who asks first may be too young to know: recovery then lasts until one comes who knows how many there
were, and all of these have come, or until the store is `RECOVERY_SECONDS` old.
"""

from __future__ import annotations

from typing import Final

from policies.admission.leased_seats import LEASE_SECONDS

OK: Final = 0
OTHER_EPOCH: Final = 1  # nothing was done: tell everything
LATE: Final = 2  # nothing was done: the call was under way for too long, or the replica's idea of the time is wrong

# Seconds within which every replica that lives has had its say: they try to reach a lost store twice a second.
RECOVERY_SECONDS: Final = 2.0
# Seconds after which a call is not carried out any more: its replica has long given it up and acts on its own.
_STALE_SECONDS: Final = 1.0
# Seconds for which nobody keeps a reserve after a request got too little: what is left is there for who needs it.
HUNGRY_SECONDS: Final = 1.5
# Seconds that a replica's name is remembered, and everything of a tenant that nobody serves any more.
_REMEMBERED_SECONDS: Final = 60.0

# The number of the month that a moment lies in: days since 0000-03-01 to year and month.
MONTH_OF: Final = """
local function month(at)
  local z = floor(at / 86400) + 719468
  local era = floor(z / 146097)
  local day = z - era * 146097
  local year = floor((day - floor(day / 1460) + floor(day / 36524) - floor(day / 146096)) / 365)
  local of_year = day - (365 * year + floor(year / 4) - floor(year / 100))
  local m = floor((5 * of_year + 2) / 153)
  m = m < 10 and m + 3 or m - 9
  return (year + era * 400 + (m <= 2 and 1 or 0)) * 12 + m - 1
end
"""

SCRIPT: Final = (
    f"""
local LEASE, RECOVERY, STALE = {LEASE_SECONDS}, {RECOVERY_SECONDS}, {_STALE_SECONDS}
local REMEMBERED, HUNGRY = {_REMEMBERED_SECONDS}, {HUNGRY_SECONDS}
"""
    + """
local call, floor = redis.call, math.floor
local me, number, sent, epoch, returning, replicas, leaving, asks = unpack(cmsgpack.unpack(ARGV[1]))
local t = call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000

local known

local function text(value) return string.format('%.0f', value) end
local function answer(status, count, recovering, answers)
  return cmsgpack.pack({status, string.format('%.6f', now), known, count, recovering, answers})
end

-- who is there
local alive, count, reported, recovery = {}, 0, 0, nil
local everybody = call('HGETALL', KEYS[1])
for i = 1, #everybody, 2 do
  local name, value = everybody[i], everybody[i + 1]
  if name == 'epoch' then known = value
  elseif name == 'recovery' then recovery = value
  end
end
if known == nil then
  known = string.format('%s.%s', t[1], t[2])
  call('HSET', KEYS[1], 'epoch', known)
  local info = redis.pcall('INFO', 'server')
  local up = tonumber(type(info) == 'string' and string.match(info, 'uptime_in_seconds:(%d+)'))
  if up and up < RECOVERY then call('HSET', KEYS[1], 'recovery', string.format('%.6f 0', now - up)) end
end
call('PEXPIRE', KEYS[1], text(REMEMBERED * 60000))
if known ~= epoch then return answer(1, 1, false, {}) end
if math.abs(now - sent) > STALE then return answer(2, 1, false, {}) end

local began, expected = 0, 0
if recovery then
  local a, b = string.match(recovery, '^(%S+) (%S+)$')
  began, expected = tonumber(a), tonumber(b)
end
if returning and (not recovery or replicas > expected) then
  began, expected = expected > 0 and began or now, replicas
  recovery = string.format('%.6f %d', began, expected)
  call('HSET', KEYS[1], 'recovery', recovery)
end
for i = 1, #everybody, 2 do
  local name, value = everybody[i], everybody[i + 1]
  if name ~= 'epoch' and name ~= 'recovery' then
    local a, b = string.match(value, '^(%S+) (%S+)$')
    local last = tonumber(a)
    if name == me then
      if tonumber(b) >= number then return answer(2, 1, false, {}) end
    elseif now - last <= LEASE then
      alive[name], count = true, count + 1
      if last >= began then reported = reported + 1 end
    elseif now - last > REMEMBERED then call('HDEL', KEYS[1], name) end
  end
end
count, reported = count + 1, reported + 1
if leaving then call('HDEL', KEYS[1], me)
else call('HSET', KEYS[1], me, string.format('%.6f %d', now, number)) end
local recovering = false
if recovery then
  recovering = (expected == 0 or reported < expected) and now - began < RECOVERY
  if not recovering then call('HDEL', KEYS[1], 'recovery') end
end

"""
    + MONTH_OF
    + """

local function add(all, mine, slice, change)
  local own = call('HINCRBY', mine, slice, text(change))
  if own == 0 then call('HDEL', mine, slice) end
  if call('HINCRBY', all, slice, text(change)) <= 0 then call('HDEL', all, slice) end
end

local function keep(key, field, value)
  if value > 0 then call('HSET', key, field, text(value)) else call('HDEL', key, field) end
end

local function window(ask, all, mine)
  local _, limit, monthly, seconds, size, slice, figures, least, smallest, more, free, held, totals = unpack(ask)
  for i = 1, #figures, 2 do
    local field = text(figures[i])
    local change = figures[i + 1] - (tonumber(call('HGET', mine, field)) or 0)
    if change ~= 0 then add(all, mine, field, change) end
  end
  for i = 1, totals and #totals or 0, 2 do
    local field = 't' .. text(totals[i])
    keep(all, field, math.max(totals[i + 1], tonumber(call('HGET', all, field)) or 0))
  end
  local first = monthly and month(now) or floor((now - seconds) / size) + 1
  local used, reserves, reserve, idle, last, slices, hungry, lost = 0, 0, 0, 0, 0, {}, false, nil
  local found = call('HGETALL', all)
  for i = 1, #found, 2 do
    local field, value = found[i], tonumber(found[i + 1])
    local kind, whose = string.sub(field, 1, 1), string.sub(field, 2)
    if kind == 'r' or kind == 'f' then
      if whose == me then
        if kind == 'r' then reserve = value end
      elseif not alive[whose] then call('HDEL', all, field)
      elseif kind == 'r' then reserves = reserves + value
      else idle = idle + value end
    elseif field == 'hungry' then hungry = now * 1000 - value < HUNGRY * 1000
    elseif kind == 't' then
      lost = lost or {}
      lost[whose] = value
    elseif tonumber(field) < first then call('HDEL', all, field)
    else
      used = used + value
      last = math.max(last, tonumber(field))
      slices[#slices + 1] = field .. ':' .. text(value)
    end
  end
  -- what the dead had: of what everybody had before, what nobody who lives has told
  if lost and not recovering then
    for field, total in pairs(lost) do
      call('HDEL', all, 't' .. field)
      local missing = total - (tonumber(call('HGET', all, field)) or 0)
      if tonumber(field) >= first and missing > 0 then
        call('HINCRBY', all, field, text(missing))
        used = used + missing
        last = math.max(last, tonumber(field))
        slices[#slices + 1] = field .. ':' .. text(missing)
      end
    end
  end
  local granted, room = 0, limit - used - reserves - math.max(0, held)
  local valid = monthly and slice == month(now) or (not monthly and slice * size >= now and (slice - 2) * size < now)
  if leaving then
    call('HDEL', all, 'r' .. me, 'f' .. me)
    reserve = 0
  elseif recovering then
    reserve = math.max(0, held)
    keep(all, 'r' .. me, reserve)
  else
    if valid then
      if room >= least then
        local plenty = room - least - math.max(limit / 10, 16 * count)
        granted = least + math.max(0, math.min(more, floor(plenty / (2 * count))))
      elseif room >= smallest then granted = room end
    end
    if granted > 0 then
      add(all, mine, text(slice), granted)
      slices[#slices + 1] = text(slice) .. ':' .. text(granted)
      last = math.max(last, slice)
    end
    if granted < least then
      hungry = true
      call('HSET', all, 'hungry', text(now * 1000))
    end
    if held < 0 then reserve = 0
    elseif hungry then reserve = held
    else reserve = math.max(held, floor((room + held - granted) / (2 * count))) end
    keep(all, 'r' .. me, reserve)
    keep(all, 'f' .. me, free + granted - math.min(granted, least))
  end
  local stays = text((seconds + REMEMBERED) * 1000)
  call('PEXPIRE', all, stays)
  call('PEXPIRE', mine, stays)
  return {granted, used + granted, reserve, reserves, idle, hungry, last, table.concat(slices, ';')}
end

local function seats(ask, all)
  local _, limit, held, taken, needed, spare = unpack(ask)
  local others, idle, hungry, starving = 0, 0, false, false
  local found = call('HGETALL', all)
  for i = 1, #found, 2 do
    local kind, whose = string.sub(found[i], 1, 1), string.sub(found[i], 2)
    if whose ~= me then
      if not alive[whose] then call('HDEL', all, found[i])
      elseif kind == 's' then others = others + tonumber(found[i + 1])
      elseif kind == 'i' then idle = idle + tonumber(found[i + 1])
      elseif now * 1000 - tonumber(found[i + 1]) < HUNGRY * 1000 then
        hungry = true
        starving = starving or kind == 'x'
      end
    end
  end
  local room = limit - others
  local ours = held
  if not recovering and not leaving then
    ours = math.max(held, math.min(needed, room))
    if room > ours then ours = ours + math.min(spare, floor((room - ours) / (2 * count))) end
  end
  keep(all, 's' .. me, ours)
  keep(all, 'i' .. me, ours - math.min(ours, needed))
  if ours < needed then
    keep(all, 'w' .. me, now * 1000)
    if ours < floor(limit / count) then keep(all, 'x' .. me, now * 1000) end
  end
  call('PEXPIRE', all, text(REMEMBERED * 1000))
  return {ours, others, idle, hungry, starving}
end

local answers, key = {}, 2
for i = 1, #asks do
  if asks[i][1] == 0 then
    answers[i] = window(asks[i], KEYS[key], KEYS[key + 1])
    key = key + 2
  else
    answers[i] = seats(asks[i], KEYS[key])
    key = key + 1
  end
end
return answer(0, count, recovering, answers)
"""
)

-- Hands out one task: what has become due first joins its stream; then, by priority, the task of a
-- worker that has died, or else a new one.
-- KEYS: the three streams, the set of waiting tasks, the sorted set of delayed ones, dead letters.
-- ARGV: consumer, milliseconds after which a silent worker is dead, attempts that a dead worker may
-- cost a task, life of job records in milliseconds, prefix of job records.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local consumer, silent, limit, life, jobs = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local group = 'workers'

for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[5], member)
  local entry = cjson.decode(member)
  redis.call('XADD', KEYS[entry.priority + 1], '*', 'task', entry.task, 'attempt', entry.attempt)
end

local function record(task, status, error)
  local job = {status = status, result = {}, error = error or cjson.null, done = cjson.null}
  local text = cjson.encode(job)
  redis.call('SET', jobs .. redis.sha1hex(task), text, 'PX', life)
end

local function fields(entry)
  local found = {}
  for i = 1, #entry[2], 2 do found[entry[2][i]] = entry[2][i + 1] end
  return found
end

local function claimed(stream)
  local answer = redis.pcall('XAUTOCLAIM', stream, group, consumer, silent, '0-0', 'COUNT', 1)
  if answer.err then
    redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
    return nil
  end
  -- Before Redis 7 an entry that was deleted is answered as nothing.
  local entry = answer[2][1]
  return entry and entry[2] and entry or nil
end

for priority = 1, 3 do
  local stream = KEYS[priority]
  local entry = claimed(stream)
  while entry do
    local found = fields(entry)
    local deliveries = redis.call('XPENDING', stream, group, entry[1], entry[1], 1)[1][4]
    local attempt = tonumber(found.attempt) + deliveries
    if deliveries <= limit then
      redis.call('SREM', KEYS[4], found.task)
      record(found.task, 'STARTED')
      return {entry[1], priority - 1, found.task, attempt}
    end
    local reason = 'the worker died ' .. limit .. ' times while it had this task'
    redis.call('XADD', KEYS[6], 'MAXLEN', '~', 10000, '*', 'task', found.task, 'error', reason,
      'attempt', attempt - 1)
    redis.call('XACK', stream, group, entry[1])
    redis.call('XDEL', stream, entry[1])
    record(found.task, 'FAILURE', reason)
    entry = claimed(stream)
  end
  local answer = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', 1, 'STREAMS', stream, '>')
  if answer then
    entry = answer[1][2][1]
    local found = fields(entry)
    redis.call('SREM', KEYS[4], found.task)
    record(found.task, 'STARTED')
    return {entry[1], priority - 1, found.task, tonumber(found.attempt) + 1}
  end
end

-- Nothing: where each stream ends, so that what comes next is not missed, and when something is due.
local ends = {}
for priority = 1, 3 do
  local info = redis.call('XINFO', 'STREAM', KEYS[priority])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then ends[priority] = info[i + 1] end
  end
end
local first = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')
local due = first[2] and math.max(0, math.ceil(tonumber(first[2]) - now)) or -1
return {'', due, ends[1], ends[2], ends[3]}
